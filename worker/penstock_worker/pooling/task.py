"""What a checkpoint is for, told by its files. No torch: the server looks before the engine does.

As in vLLM's `--runner` and `--convert`: a classifier scores, an encoder embeds, and a decoder
generates unless sentence-transformers' files say that its states are to be pooled.
"""

import json
from pathlib import Path
from typing import Any, Final

from penstock_contract.api.engine import Task
from penstock_worker.model.config import UnsupportedModel

ENCODERS: Final = ("BertModel", "RobertaModel", "XLMRobertaModel")
CLASSIFIERS: Final = (
    "BertForSequenceClassification",
    "RobertaForSequenceClassification",
    "XLMRobertaForSequenceClassification",
)
MODULES: Final = "modules.json"
"""What sentence-transformers writes beside a checkpoint."""

CAUSAL, BARE = "ForCausalLM", "Model"


def task_of(folder: Path, wanted: Task) -> Task:
    """Return what the checkpoint in `folder` is served for.

    Raises:
        UnsupportedModel: it cannot be served for what is wanted, or says nothing of itself.
    """
    architecture = architecture_of(folder)
    found = _told_by(architecture, pooled=(folder / MODULES).is_file())
    if wanted in (Task.AUTO, found):
        return found
    decodes = architecture.endswith(CAUSAL)
    if decodes and wanted in (Task.GENERATE, Task.EMBED):
        return wanted
    raise UnsupportedModel(
        f"config.json: architectures is {architecture}, which is for --task {found.lower()}, "
        f"not {wanted.lower()}"
    )


def architecture_of(folder: Path) -> str:
    """Return the architecture that config.json names first.

    Raises:
        UnsupportedModel: there is no such file, or it is damaged.
    """
    return str(next(iter(read_object(folder / "config.json").get("architectures") or ["(none)"])))


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UnsupportedModel: it is not there, or is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{path.name} is not a JSON object")
    return found


def read_json(path: Path) -> Any:
    """Return what is in a JSON file.

    Raises:
        UnsupportedModel: it is not there, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedModel(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not JSON: {error}") from error


def _told_by(architecture: str, *, pooled: bool) -> Task:
    if architecture in CLASSIFIERS:
        return Task.SCORE
    if architecture in ENCODERS or architecture.endswith(BARE):
        return Task.EMBED
    return Task.EMBED if pooled else Task.GENERATE
