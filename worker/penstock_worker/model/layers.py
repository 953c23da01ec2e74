"""The decoder's building blocks: linear layers, packed for the CPU, and rotary tables."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.model.quantization import int4_values, int8_rows
from penstock_worker.model.rope import Rope, yarn_magnitude


class Linear:
    """y = x Wᵀ + b.

    On a CPU in float32 the weight is packed once into oneDNN's blocked layout, which spares every
    call the reordering: two to three times faster from two rows on. Quantised weights are computed
    in floating point from the same values that the native kernels use: right, but not faster.
    Shapes: weight [out, in], x [tokens, in], y [tokens, out].
    """

    # The layout is chosen for this many rows. One for 32 is as fast for a single row as one for 1,
    # which is half as fast for several.
    PACKED_FOR_ROWS = 32

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, quantization: str = "none"
    ) -> None:
        self._bias = bias
        self._scales: Tensor | None = None
        if quantization == "int8":
            weight, scales = int8_rows(weight.float())
            self._scales = scales[:, 0]
        elif quantization == "int4":
            weight = int4_values(weight).to(weight.dtype)
        self._packed = (
            weight.dtype is torch.float32 and weight.device.type == "cpu" and torch._C._has_mkldnn
        )
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self.PACKED_FOR_ROWS)
            if self._packed
            else weight
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        if self._scales is None:
            return self._product(x, self._bias)
        whole, factors = int8_rows(x.float())
        y = self._product(whole, None) * factors * self._scales
        return (y if self._bias is None else y + self._bias).to(x.dtype)

    def added(self, to: Tensor, x: Tensor) -> Tensor:
        """Return to + x Wᵀ + b; packed, that is one call instead of two."""
        if not self._packed or self._scales is not None:
            return to + self(x)
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, to, self._weight, self._bias, "add"
        )
        return found

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self._packed:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, bias, "none", [], ""
            )
            return packed
        return functional.linear(x, self._weight, bias)


def capped(x: Tensor, cap: float) -> Tensor:
    """Return cap · tanh(x / cap), or x where the cap is 0."""
    return (x / cap).tanh_().mul_(cap) if cap else x


def rotary_tables(rope: Rope, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Return cos and signed sin of every position, each [length, 1, head_dim], float32.

    RoFormer (Su et al., 2021) in Llama's half-split form; the sine's first half is negated so that
    a rotation is `x · cos + roll(x, head_dim / 2) · sin`.
    """
    angles = torch.outer(torch.arange(length, dtype=torch.float32), _frequencies(rope, head_dim))
    factor = rope.attention_factor
    if factor is None:
        factor = yarn_magnitude(rope.factor) if rope.kind == "yarn" else 1.0
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions. x [tokens, heads, head_dim]; cos and sin [tokens, 1, head_dim]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _frequencies(rope: Rope, head_dim: int) -> Tensor:
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**steps
    match rope.kind:
        case "linear":
            return frequencies / rope.factor
        case "llama3":
            # Llama 3.1: long wavelengths are stretched, short ones kept, those between mixed.
            turns = rope.original_max_position * frequencies / (2 * math.pi)
            low, high = rope.low_freq_factor, rope.high_freq_factor
            kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        case "yarn":
            kept = 1.0 - _yarn_ramp(rope, head_dim)
        case _:
            return frequencies
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


def _yarn_ramp(rope: Rope, head_dim: int) -> Tensor:
    """Return how much of each frequency is stretched (Peng et al., "YaRN", 2023, §3.2)."""

    def dimension(turns: float) -> float:
        scale = rope.original_max_position / (turns * 2 * math.pi)
        return head_dim * math.log(scale) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = high - low or 0.001
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0.0, 1.0)
