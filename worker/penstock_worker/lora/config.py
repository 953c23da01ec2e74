"""What an adapter asks for, read from PEFT's `adapter_config.json`. No torch: the server reads it.

What is not computed exactly as PEFT would is refused by name: an adapter that loads does what its
authors trained. So a field that is not known here must be empty.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

MLP: Final = ("gate_proj", "up_proj", "down_proj")
MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", *MLP)
"""Linear layers that an adapter may change."""

_READ: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "bias", "init_lora_weights"}
)
_WITHOUT_EFFECT: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",  # the file has tensors of these layers only
        "lora_dropout",  # of training
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
_PIECE: Final = 1 << 20
_HARMLESS_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: others change the weights of the base model, too."""


class UnsupportedAdapter(ValueError):
    """The adapter is damaged, does not fit the model, or asks for what is not computed here."""


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter's pairs of matrices are to be used."""

    rank: int
    scale: float
    """Of their products: alpha / rank, or alpha / √rank with rsLoRA (Kalajdzievski, 2023)."""
    modules: frozenset[str]
    """Linear layers that must be changed somewhere; empty where a pattern chose them."""


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the configuration of the adapter in `folder`.

    Raises:
        UnsupportedAdapter: a file is missing or damaged, or asks for what is not computed here.
    """
    raw = _read(folder)
    _refuse(raw)
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        raise UnsupportedAdapter(f"{CONFIG}: r must be a positive integer, not {rank!r}")
    if not isinstance(alpha, int | float):
        raise UnsupportedAdapter(f"{CONFIG}: lora_alpha must be a number, not {alpha!r}")
    divisor = rank**0.5 if raw.get("use_rslora") else rank
    return AdapterConfig(rank, alpha / divisor, _modules(raw.get("target_modules")))


def adapter_digest(folder: Path) -> bytes:
    """Return 16 bytes that differ wherever what the adapter in `folder` computes differs."""
    digest = hashlib.blake2b((folder / CONFIG).read_bytes(), digest_size=16)
    with (folder / WEIGHTS).open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.digest()


def _read(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedAdapter(
            f"{folder / CONFIG}: {error.strerror}: a folder that PEFT saved is expected"
        ) from error
    except ValueError as error:
        raise UnsupportedAdapter(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UnsupportedAdapter(f"{folder / CONFIG} is not a JSON object")
    if not (folder / WEIGHTS).is_file():
        raise UnsupportedAdapter(
            f"{folder} has no {WEIGHTS}: save the adapter with safe_serialization=True "
            "(other formats are not read: they can run code)"
        )
    return raw


def _refuse(raw: dict[str, Any]) -> None:
    """Refuse what would be computed wrongly."""
    if raw.get("peft_type") != "LORA":
        raise UnsupportedAdapter(f"{CONFIG}: peft_type {raw.get('peft_type')!r}: only LORA is run")
    if raw.get("bias", "none") != "none":
        raise UnsupportedAdapter(f"{CONFIG}: bias is {raw['bias']!r}: train with bias='none'")
    start = raw.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        raise UnsupportedAdapter(
            f"{CONFIG}: init_lora_weights {start!r} changes the base model: convert the adapter to "
            "a plain one when you save it (path_initial_model_for_weight_conversion)"
        )
    for field, value in raw.items():
        if value and field not in _READ | _WITHOUT_EFFECT:
            raise UnsupportedAdapter(
                f"{CONFIG}: {field} is not supported: train without it, or merge the adapter into "
                "the model (merge_and_unload) and serve that"
            )


def _modules(targets: Any) -> frozenset[str]:
    """Return the last parts of the target modules' names; a pattern is left to the tensors."""
    if isinstance(targets, str):
        return frozenset()
    names = frozenset(str(name).rpartition(".")[2] for name in targets or ())
    unknown = sorted(names.difference(MODULES))
    if unknown or not names:
        raise UnsupportedAdapter(
            f"{CONFIG}: target_modules {', '.join(unknown) or 'is empty'}: adapters may change "
            f"{', '.join(MODULES)}; train it on these"
        )
    return names
