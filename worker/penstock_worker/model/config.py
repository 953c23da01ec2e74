"""What the decoder needs to know of a checkpoint, read from its `config.json`.

A family is a set of switches of one decoder, not a file of its own. What a switch does not cover is
refused by name: a model that loads must compute what its authors meant.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_worker.model.experts_config import (
    ExpertsConfig,
    UnsupportedExperts,
    read_experts,
)
from penstock_worker.model.latent_config import LatentConfig, UnsupportedLatent, read_latent
from penstock_worker.model.rope import Rope, UnsupportedRope, read_rope


@dataclass(frozen=True)
class _Family:
    """What the authors of a family fixed; the rest is in config.json."""

    qkv_bias: bool = False
    qk_norm: bool = False
    gemma: bool = False
    """Norms multiply by 1 + weight, and embeddings are scaled by the root of their width."""
    post_norms: bool = False
    """What attention and MLP give is normed again before it is added."""
    slides: str = "never"
    """Which layers slide, where config.json has no layer_types: never, always, qwen, gemma, or
    alternate."""
    caps: tuple[float, float] = (0.0, 0.0)
    """Of attention's scores and of logits, where config.json does not say; 0 for families that
    know none."""
    latent: bool = False
    """Attention keeps latents, not keys and values."""
    experts: str = ""
    """How config.json tells of experts, as `read_experts` knows it; empty for families without."""


_FAMILIES = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(slides="always"),
    "MixtralForCausalLM": _Family(slides="always", experts="mixtral"),
    "Qwen2ForCausalLM": _Family(qkv_bias=True, slides="qwen"),
    "Qwen3ForCausalLM": _Family(qk_norm=True, slides="qwen"),
    "Qwen2MoeForCausalLM": _Family(qkv_bias=True, experts="qwen"),
    "Qwen3MoeForCausalLM": _Family(qk_norm=True, experts="qwen"),
    "GemmaForCausalLM": _Family(gemma=True),
    "Gemma2ForCausalLM": _Family(
        gemma=True, post_norms=True, slides="alternate", caps=(50.0, 30.0)
    ),
    "Gemma3ForCausalLM": _Family(gemma=True, qk_norm=True, post_norms=True, slides="gemma"),
    "DeepseekV2ForCausalLM": _Family(latent=True, experts="deepseek_v2"),
    "DeepseekV3ForCausalLM": _Family(latent=True, experts="deepseek_v3"),
}

_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


class UnsupportedModel(ValueError):
    """The checkpoint is damaged, or asks for something that this engine does not compute."""


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
    norm_offset: float
    """Added to the weights of norms."""
    activation: str
    """silu or gelu_tanh."""
    embedding_scale: float
    query_scale: float
    """Of attention's scores."""
    score_cap: float
    """Scores are bent into ±cap by c · tanh(x / c); 0 for none."""
    logit_cap: float
    """The same of logits."""
    rope: Rope
    sliding_rope: Rope
    """Of the layers that slide."""
    windows: tuple[int, ...]
    """Tokens that each layer sees, itself among them; 0 for all."""
    max_position: int
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    post_norms: bool
    eos_token_ids: tuple[int, ...]
    dtype: str
    """That the checkpoint says it is stored in."""
    experts: ExpertsConfig | None = None
    """Of the layers that have them."""
    latent: LatentConfig | None = None
    """Of attention that keeps latents: that is like one KV head, head_dim wide, whose values are
    the first numbers of its keys."""
    predicting_layers: int = 0
    """Behind the others in the checkpoint: they predict further tokens, and are left out."""

    @property
    def window(self) -> int:
        """Tokens that the layer which sees most sees; 0 for all."""
        return max(self.windows) if all(self.windows) else 0

    def longest(self, asked: int | None) -> int:
        """Return the longest context in tokens: what is asked for, within the model's own limit."""
        return min(asked or self.max_position, self.max_position)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV per token in float32, over all layers."""
        kept = 1 if self.latent else 2
        return kept * 4 * self.num_layers * self.num_kv_heads * self.head_dim

    @property
    def latent_rank(self) -> int:
        """Numbers of a key that are its value, too; 0 where values are kept by themselves."""
        return self.latent.rank if self.latent else 0

    @property
    def rotary_dim(self) -> int:
        """Width of what positions turn, in a head."""
        return self.latent.rotary_dim if self.latent else self.head_dim


def read_config(folder: Path) -> ModelConfig:
    """Return the configuration of the checkpoint in `folder`.

    Raises:
        UnsupportedModel: the file is missing, damaged, or describes another kind of model.
    """
    return shape_of(read_json(folder / "config.json"), folder)


def shape_of(raw: dict[str, Any], folder: Path) -> ModelConfig:
    """Return the configuration that a `config.json` describes, which lies in `folder`.

    Raises:
        UnsupportedModel: it describes another kind of model.
    """
    named = architecture = next(iter(raw.get("architectures") or ["(none)"]))
    if named.endswith("Model"):  # exported without a head, to be pooled
        architecture = named.removesuffix("Model") + "ForCausalLM"
    if architecture not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedModel(f"config.json: architectures is {named}; this engine runs {known}")
    family = _FAMILIES[architecture]
    _refuse(raw, family)
    heads = positive(raw, "num_attention_heads")
    hidden = positive(raw, "hidden_size")
    head_dim = raw.get("head_dim") or hidden // heads
    kv_heads = raw.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise UnsupportedModel(
            "config.json: num_attention_heads is not a multiple of num_key_value_heads"
        )
    try:
        rope, sliding_rope = read_rope(raw), read_rope(raw, "sliding_attention")
        experts = read_experts(raw, family.experts) if family.experts else None
        latent = read_latent(raw) if family.latent else None
    except (UnsupportedRope, UnsupportedExperts, UnsupportedLatent) as error:
        raise UnsupportedModel(f"config.json: {error}") from error
    return ModelConfig(
        vocab_size=positive(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=positive(raw, "intermediate_size"),
        num_layers=positive(raw, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=1 if latent else kv_heads,
        head_dim=latent.kept if latent else head_dim,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        norm_offset=1.0 if family.gemma else 0.0,
        activation=_activation(raw, family),
        embedding_scale=hidden**0.5 if family.gemma else 1.0,
        query_scale=latent.scale
        if latent
        else float(raw.get("query_pre_attn_scalar", head_dim)) ** -0.5,
        score_cap=_cap(raw, "attn_logit_softcapping", family.caps[0]),
        logit_cap=_cap(raw, "final_logit_softcapping", family.caps[1]),
        rope=rope,
        sliding_rope=sliding_rope,
        windows=_windows(raw, family),
        max_position=max(positive(raw, "max_position_embeddings"), rope.reach),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", family.gemma)),
        qkv_bias=bool(raw.get("qkv_bias", raw.get("attention_bias", family.qkv_bias))),
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        eos_token_ids=_eos(raw, folder),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        experts=experts,
        latent=latent,
        predicting_layers=int(raw.get("num_nextn_predict_layers") or 0),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; raise UnsupportedModel where it has none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedModel(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{path} is not a JSON object")
    return found


def positive(raw: dict[str, Any], field: str) -> int:
    """Return a number that config.json must have; raise UnsupportedModel where it has none."""
    value = raw.get(field)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(f"config.json: {field} must be a positive integer, not {value!r}")
    return value


def _refuse(raw: dict[str, Any], family: _Family) -> None:
    """Refuse what would be computed wrongly."""
    refused = ["mlp_bias", "quantization_config", "use_bidirectional_attention"]
    if family.experts == "qwen":
        refused += ["use_sliding_window"]
    if not any(family.caps):
        refused += ["attn_logit_softcapping", "final_logit_softcapping"]
    for field in refused:
        if raw.get(field):
            raise UnsupportedModel(f"config.json: {field} is not supported")


def _cap(raw: dict[str, Any], field: str, default: float) -> float:
    """Return a cap; config.json says null for none."""
    return float(raw.get(field, default) or 0.0)


def _activation(raw: dict[str, Any], family: _Family) -> str:
    """Return the activation; Gemma's first release says gelu and means its approximation."""
    found = raw.get("hidden_activation") or raw.get("hidden_act", "silu")
    if family.gemma and found == "gelu":
        return "gelu_tanh"
    if found not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedModel(f"config.json: hidden_act {found!r}; known: {known}")
    return _ACTIVATIONS[found]


def _windows(raw: dict[str, Any], family: _Family) -> tuple[int, ...]:
    """Return how far each layer sees; 0 is everything."""
    layers = positive(raw, "num_hidden_layers")
    window = raw.get("sliding_window") or 0
    if family.slides == "qwen" and not raw.get("use_sliding_window", False):
        window = 0
    types = raw.get("layer_types")
    if types is None:
        types = [_layer_type(raw, family, index) for index in range(layers)]
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown or len(types) != layers:
        raise UnsupportedModel(f"config.json: layer_types {sorted(set(types))} is not supported")
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)


def _layer_type(raw: dict[str, Any], family: _Family, index: int) -> str:
    match family.slides:
        case "always":
            slides = True
        case "qwen":
            slides = index >= raw.get("max_window_layers", 28)
        case "alternate":
            slides = index % 2 == 0
        case "gemma":
            slides = (index + 1) % raw.get("sliding_window_pattern", 6) != 0
        case _:
            slides = False
    return "sliding_attention" if slides else "full_attention"


def _eos(raw: dict[str, Any], folder: Path) -> tuple[int, ...]:
    """Return the end tokens; `generation_config.json` wins, as it does in transformers."""
    value = raw.get("eos_token_id")
    if (folder / "generation_config.json").is_file():
        value = read_json(folder / "generation_config.json").get("eos_token_id", value)
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
