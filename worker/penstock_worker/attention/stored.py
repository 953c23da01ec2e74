"""How KV is stored: as it is computed, in bfloat16, or in bytes with a scale per token and head.

In bytes a head's vector x becomes round(127 x / s) with s = max |x|, which is kept beside it: keys
and values alike, symmetric, as vLLM's `int8_per_token_head` has it. What is stored of a token so
depends on that token alone. Scales per channel, which suit keys even better (Liu et al., "KIVI",
2024), would depend on the tokens that are computed with it, and so would its numbers.
"""

from typing import Final

import torch
from torch import Tensor

KV_CACHE_DTYPES: Final = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "int8_per_token_head": torch.int8,
}
"""What --kv-cache-dtype may be, in vLLM's words; None: the type that is computed in."""

SCALE_BYTES: Final = 4
LEVELS: Final = 127.0


def vector_bytes(width: int, dtype: torch.dtype) -> int:
    """Return the bytes of one head's key or value, its scale included."""
    return width * dtype.itemsize + (SCALE_BYTES if dtype is torch.int8 else 0)


def quantised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return bytes, and the scales that they are to be multiplied with.

    Shapes: vectors and bytes [tokens, heads, head_dim]; scales [tokens, heads], float32.
    """
    vectors = vectors.float()
    most = vectors.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
    return (vectors * (LEVELS / most)).round_().to(torch.int8), most[..., 0] / LEVELS
