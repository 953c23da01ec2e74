"""Draws tokens by inverting their cumulative distribution at a counter-based number.

The number is a hash of (seed, choice, position) and nothing else. Rows with a filter (top_k, top_p,
min_p) are drawn in sorted order, the others as they lie; each row takes the same way whatever its
neighbours want, or its draw would depend on them.
"""

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from penstock_worker.messages import Sampling


def uniform(seed: int, choice: int, position: int) -> float:
    """Return a number in [0, 1) that depends on the arguments only."""
    key = struct.pack("<qqq", seed, choice, position)
    (bits,) = struct.unpack("<Q", hashlib.blake2b(key, digest_size=8).digest())
    return float(bits >> 11) * 2.0**-53


def draw(logits: Tensor, wanted: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """Return a token for every row, on the device of the logits.

    Args:
        logits: [rows, vocab], float32.
        wanted: how to draw from each row; no temperature is 0.
        positions: in its output, of each row's token.
    """
    scaled = logits / _like(logits, [s.temperature for s in wanted], torch.float32)[:, None]
    chances = scaled.softmax(-1)
    numbers = _like(
        logits,
        [uniform(s.seed, s.choice, place) for s, place in zip(wanted, positions, strict=True)],
        torch.float64,
    )
    tokens = torch.empty(len(wanted), dtype=torch.long, device=logits.device)
    filtered = [i for i, s in enumerate(wanted) if s.top_k or s.top_p < 1.0 or s.min_p > 0.0]
    plain = sorted(set(range(len(wanted))) - set(filtered))
    if plain:
        at = _like(logits, plain, torch.long)
        tokens[at] = _invert(chances[at].double(), numbers[at])
    if filtered:
        at = _like(logits, filtered, torch.long)
        order = _order(scaled[at])
        kept = _keep(chances[at].gather(-1, order).double(), [wanted[i] for i in filtered])
        tokens[at] = order.gather(-1, _invert(kept, numbers[at])[:, None])[:, 0]
    return tokens


def _order(scaled: Tensor) -> Tensor:
    """Return the indices of each row by value, downwards, equal ones in order.

    On a CPU, NumPy sorts whole numbers with vector instructions: here, a float's bits above its
    index. PyTorch's stable sort of a large vocabulary would take longer than most steps.
    """
    if scaled.device.type != "cpu":
        return torch.sort(scaled, dim=-1, descending=True, stable=True).indices
    bits = (scaled + 0.0).numpy().view(np.int32)  # adding makes one zero of the two
    falling = np.where(bits < 0, bits & 0x7FFFFFFF, ~bits).astype(np.int64)
    keys = falling << 32 | np.arange(scaled.shape[-1])
    keys.sort(axis=-1)
    return torch.from_numpy(keys & 0xFFFFFFFF)


def _keep(mass: Tensor, wanted: Sequence[Sampling]) -> Tensor:
    """Zero the probabilities, sorted downwards, that top_k, top_p and min_p exclude."""
    vocab = mass.shape[-1]
    top_k = _like(mass, [s.top_k or vocab for s in wanted], torch.long)[:, None]
    top_p = _like(mass, [s.top_p for s in wanted], torch.float64)[:, None]
    min_p = _like(mass, [s.min_p for s in wanted], torch.float64)[:, None]
    mass = mass.masked_fill(torch.arange(vocab, device=mass.device)[None] >= top_k, 0.0)
    mass = mass / mass.sum(-1, keepdim=True)
    before = mass.cumsum(-1) - mass
    excluded = (before >= top_p) | (mass < min_p * mass[:, :1])
    excluded[:, 0] = False  # the likeliest token always stays
    return mass.masked_fill(excluded, 0.0)


def _invert(mass: Tensor, numbers: Tensor) -> Tensor:
    """Return the first index at which the cumulative mass exceeds number · total."""
    cumulative = mass.cumsum(-1)
    targets = numbers[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    # Rounding may point behind the last token that has any mass.
    last = mass.shape[-1] - 1 - (mass.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(found, last)


def _like(beside: Tensor, values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return values as a tensor on the device of another one."""
    return torch.tensor(values, dtype=dtype).to(beside.device)
