"""What config.json says of rotary positions, in its older form or its newer one. No torch."""

import math
from dataclasses import dataclass
from typing import Any


class UnsupportedRope(ValueError):
    """Positions are scaled in a way that is not computed here."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions: a base, and how frequencies are stretched.

    `kind` is default, linear, llama3 or yarn. Dynamic scaling is the default one: within the
    model's own context, which is all that is served, it stretches nothing.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """Of cos and sin; None for yarn's own."""
    truncate: bool = True

    @property
    def reach(self) -> int:
        """Positions that yarn covers, which config.json may not count."""
        return int(self.factor * self.original_max_position) if self.kind == "yarn" else 0


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """Return what scores gain where positions are stretched (Peng et al., "YaRN", 2023, §3.4)."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def score_factor(raw: dict[str, Any]) -> float:
    """Return what DeepSeek multiplies all scores with, not only the part that positions turn."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    scale = rope.get("mscale_all_dim")
    if rope.get("rope_type", rope.get("type", "default")) == "default" or not scale:
        return 1.0
    return yarn_magnitude(float(rope.get("factor") or 1.0), float(scale)) ** 2


def read_rope(raw: dict[str, Any], layers: str = "full_attention") -> Rope:
    """Return the rotary positions of full or sliding layers, from the contents of config.json.

    Raises:
        UnsupportedRope: of another kind, or without a number that its kind needs.
    """
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    nested = rope.get(layers)
    if isinstance(nested, dict):  # a rope per type of layer
        rope = nested
    elif layers == "sliding_attention" and "rope_local_base_freq" in raw:
        return Rope(theta=float(raw["rope_local_base_freq"]))
    theta = float(rope.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedRope("partial_rotary_factor is not supported")
    try:
        return _scaled(theta, kind, rope, raw)
    except KeyError as error:
        raise UnsupportedRope(f"rope scaling {kind!r} needs {error.args[0]}") from error


def _scaled(theta: float, kind: str, rope: dict[str, Any], raw: dict[str, Any]) -> Rope:
    match kind:
        case "default" | "dynamic":
            return Rope(theta)
        case "linear":
            return Rope(theta, "linear", float(rope["factor"]))
        case "llama3":
            return Rope(
                theta,
                "llama3",
                float(rope["factor"]),
                int(rope["original_max_position_embeddings"]),
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
            )
        case "yarn":
            original = rope.get("original_max_position_embeddings")
            return Rope(
                theta,
                "yarn",
                float(rope["factor"]),
                int(original or raw["max_position_embeddings"]),
                beta_fast=float(rope.get("beta_fast") or 32),
                beta_slow=float(rope.get("beta_slow") or 1),
                attention_factor=_attention_factor(rope),
                truncate=bool(rope.get("truncate", True)),
            )
    known = "default, linear, dynamic, llama3, yarn"
    raise UnsupportedRope(f"rope scaling {kind!r}; known: {known}")


def _attention_factor(rope: dict[str, Any]) -> float | None:
    given = rope.get("attention_factor")
    if given is not None:
        return float(given)
    some, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if not (some and all_dim):
        return None
    factor = float(rope["factor"])
    return yarn_magnitude(factor, some) / yarn_magnitude(factor, all_dim)
