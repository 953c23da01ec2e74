"""How a model's states become one vector, as sentence-transformers' files beside it say. No torch.

`modules.json` lists the steps: a Transformer, a Pooling, and perhaps a Normalize. What is not known
is refused by name, since leaving a step out gives vectors that look right and are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock_worker.model.config import UnsupportedModel
from penstock_worker.pooling.task import MODULES, read_json, read_object

CLS, MEAN, LAST = "cls", "mean", "last"

_FLAGS: Final = {
    "pooling_mode_cls_token": CLS,
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_lasttoken": LAST,
}
_NAMES: Final = {"cls": CLS, "mean": MEAN, "lasttoken": LAST}
_LIMITS: Final = "sentence_*_config.json"


@dataclass(frozen=True)
class Recipe:
    """From states to a vector."""

    pooling: str
    """cls (the first token's state), mean (of all), or last."""
    normalised: bool = True
    """Whether vectors have length 1."""
    max_tokens: int | None = None
    """Longest input that the model was made for; None: its positions decide."""


def read_recipe(folder: Path, default: str) -> Recipe:
    """Return the recipe of a model; `default` is the pooling where its folder has none.

    Without those files, vectors are normalised, as vLLM does.

    Raises:
        UnsupportedModel: a file is damaged, or asks for a step that is not known.
    """
    limit = _max_tokens(folder)
    if not (folder / MODULES).is_file():
        return Recipe(default, max_tokens=limit)
    pooling, normalised = default, False
    for kind, path in _modules(folder):
        match kind:
            case "Transformer":
                pass
            case "Pooling":
                pooling = _pooling(read_object(folder / path / "config.json"), path)
            case "Normalize":
                normalised = True
            case _:
                raise UnsupportedModel(f"{MODULES}: a step of kind {kind} is not supported")
    return Recipe(pooling, normalised, limit)


def _modules(folder: Path) -> Sequence[tuple[str, str]]:
    """Return kind and folder of each step."""
    found = read_json(folder / MODULES)
    try:
        steps = [(str(step["type"]).rpartition(".")[2], str(step["path"])) for step in found]
    except (TypeError, KeyError) as error:
        raise UnsupportedModel(f"{MODULES} is damaged: {error!r}") from error
    for _, path in steps:
        if Path(path).name != path or path == "..":
            raise UnsupportedModel(f"{MODULES} names {path!r}, which is outside the folder")
    return steps


def _pooling(config: dict[str, Any], path: str) -> str:
    named = config.get("pooling_mode")
    if isinstance(named, str):
        modes = [_NAMES.get(named, named)]
    else:
        on = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        modes = [_FLAGS.get(name, name) for name in on]
    if len(modes) != 1 or modes[0] not in (CLS, MEAN, LAST):
        raise UnsupportedModel(
            f"{path}/config.json: pooling is {', '.join(modes) or 'nothing'}; known: "
            f"{CLS}, {MEAN}, {LAST}, one at a time"
        )
    return modes[0]


def _max_tokens(folder: Path) -> int | None:
    for path in sorted(folder.glob(_LIMITS)):
        value = read_object(path).get("max_seq_length")
        if isinstance(value, int) and value > 0:
            return value
    return None
