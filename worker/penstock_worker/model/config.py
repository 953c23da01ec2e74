"""What the decoder needs to know of a checkpoint, read from its `config.json`.

A family is a set of switches of one decoder, not a file of its own. What a switch does not cover is
refused by name: a model that loads must compute what its authors meant.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FAMILIES = {
    "LlamaForCausalLM": {"qkv_bias": False, "qk_norm": False},
    "MistralForCausalLM": {"qkv_bias": False, "qk_norm": False},
    "Qwen2ForCausalLM": {"qkv_bias": True, "qk_norm": False},
    "Qwen3ForCausalLM": {"qkv_bias": False, "qk_norm": True},
}


class UnsupportedModel(ValueError):
    """The checkpoint is damaged, or asks for something that this engine does not compute."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched; `kind` is default, linear or llama3."""

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling
    max_position: int
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    eos_token_ids: tuple[int, ...]
    dtype: str
    """That the checkpoint says it is stored in."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV per token in float32, over all layers."""
        return 2 * 4 * self.num_layers * self.num_kv_heads * self.head_dim


def read_config(folder: Path) -> ModelConfig:
    """Return the configuration of the checkpoint in `folder`.

    Raises:
        UnsupportedModel: the file is missing, damaged, or describes another kind of model.
    """
    raw = _read_json(folder / "config.json")
    architecture = next(iter(raw.get("architectures") or ["(none)"]))
    if architecture not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedModel(
            f"config.json: architectures is {architecture}; this engine runs {known}"
        )
    _refuse(raw)
    family = _FAMILIES[architecture]
    heads = _positive(raw, "num_attention_heads")
    hidden = _positive(raw, "hidden_size")
    kv_heads = raw.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise UnsupportedModel(
            "config.json: num_attention_heads is not a multiple of num_key_value_heads"
        )
    theta, scaling = _rope(raw)
    return ModelConfig(
        vocab_size=_positive(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_positive(raw, "intermediate_size"),
        num_layers=_positive(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position=_positive(raw, "max_position_embeddings"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=bool(raw.get("attention_bias", family["qkv_bias"])),
        qk_norm=family["qk_norm"],
        eos_token_ids=_eos(raw, folder),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedModel(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{path} is not a JSON object")
    return found


def _positive(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(f"config.json: {field} must be a positive integer, not {value!r}")
    return value


def _refuse(raw: dict[str, Any]) -> None:
    """Refuse what would be computed wrongly."""
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"config.json: hidden_act {raw['hidden_act']!r}; only silu is known")
    if raw.get("mlp_bias"):
        raise UnsupportedModel("config.json: mlp_bias is not supported")
    if raw.get("quantization_config"):
        raise UnsupportedModel(
            "config.json: quantization_config: quantised weights are not supported"
        )
    layer_types = set(raw.get("layer_types") or ["full_attention"])
    sliding = raw.get("sliding_window") and raw.get("use_sliding_window", True)
    if layer_types != {"full_attention"} or (sliding and "layer_types" not in raw):
        raise UnsupportedModel("config.json: sliding_window attention is not supported")


def _rope(raw: dict[str, Any]) -> tuple[float, RopeScaling]:
    """Read theta and scaling, in the older form or the newer (`rope_parameters`)."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return theta, RopeScaling(
            "llama3",
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    raise UnsupportedModel(f"config.json: rope scaling {kind!r}; known: default, linear, llama3")


def _eos(raw: dict[str, Any], folder: Path) -> tuple[int, ...]:
    """Return the end tokens; `generation_config.json` wins, as it does in transformers."""
    value = raw.get("eos_token_id")
    if (folder / "generation_config.json").is_file():
        value = _read_json(folder / "generation_config.json").get("eos_token_id", value)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
