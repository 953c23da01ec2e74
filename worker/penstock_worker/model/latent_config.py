"""What config.json says of latent attention (MLA; "DeepSeek-V2", 2024, §2.1). No torch.

A token's keys and values of all heads are made from one short vector, its latent, and one rotary
key that all heads share. These two are what is kept of a token, instead of keys and values.
"""

from dataclasses import dataclass
from typing import Any

from penstock_worker.model.rope import score_factor


class UnsupportedLatent(ValueError):
    """Attention is not described, or in a way that is not computed here."""


@dataclass(frozen=True)
class LatentConfig:
    """How queries, keys and values come from latents."""

    query_rank: int
    """Width of the vector that a token's queries are made from; 0 where they are made directly."""
    rank: int
    """Width of a token's latent."""
    plain_dim: int
    """Width of the part of a query or key that knows no position."""
    rotary_dim: int
    """Width of the part that is turned by its position; of keys, all heads share it."""
    value_dim: int
    scale: float
    """Of attention's scores."""
    interleaved: bool
    """The checkpoint has the two numbers that are turned together side by side, not a half
    apart."""

    @property
    def kept(self) -> int:
        """Numbers that are kept of a token in a layer: its latent, then its rotary key."""
        return self.rank + self.rotary_dim

    @property
    def query_dim(self) -> int:
        """Width of a query: its plain part, then its rotary one."""
        return self.plain_dim + self.rotary_dim


def read_latent(raw: dict[str, Any]) -> LatentConfig:
    """Return how latent attention is computed, from the contents of config.json.

    Raises:
        UnsupportedLatent: a number is missing or makes no sense, or is not computed here.
    """
    if raw.get("attention_bias"):
        raise UnsupportedLatent("attention_bias is not supported with latent attention")
    plain, rotary = _positive(raw, "qk_nope_head_dim"), _positive(raw, "qk_rope_head_dim")
    if rotary % 2:
        raise UnsupportedLatent(f"qk_rope_head_dim must be even, not {rotary}")
    return LatentConfig(
        query_rank=0 if raw.get("q_lora_rank") is None else _positive(raw, "q_lora_rank"),
        rank=_positive(raw, "kv_lora_rank"),
        plain_dim=plain,
        rotary_dim=rotary,
        value_dim=_positive(raw, "v_head_dim"),
        scale=(plain + rotary) ** -0.5 * score_factor(raw),
        interleaved=bool(raw.get("rope_interleave", True)),
    )


def _positive(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedLatent(f"{field} must be a positive integer, not {value!r}")
    return value
