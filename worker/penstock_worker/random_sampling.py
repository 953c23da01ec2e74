"""Random sampling: inverts a row's cumulative distribution at a counter-based number.

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


def uniform(seed: int, choice: int, position: int, purpose: bytes = b"") -> float:
    """Return a number in [0, 1) that depends on the arguments only."""
    key = struct.pack("<qqq", seed, choice, position) + purpose
    (bits,) = struct.unpack("<Q", hashlib.blake2b(key, digest_size=8).digest())
    return float(bits >> 11) * 2.0**-53


def random_sample(logits: Tensor, wanted: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """Return a token for every row, on the device of the logits.

    Args:
        logits: [rows, vocab], float32.
        wanted: how to draw from each row; no temperature is 0.
        positions: in its output, of each row's token.
    """
    scaled = logits / _like(logits, [s.temperature for s in wanted], torch.float32)[:, None]
    chances = scaled.softmax(-1)
    numbers = _numbers(logits, wanted, positions)
    tokens = torch.empty(len(wanted), dtype=torch.long, device=logits.device)
    filtered = _filtered(wanted)
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


def probabilities(logits: Tensor, wanted: Sequence[Sampling]) -> Tensor:
    """Return what `random_sample` draws from, [rows, vocab], float64."""
    scaled = logits / _like(logits, [s.temperature for s in wanted], torch.float32)[:, None]
    mass = scaled.softmax(-1).double()
    filtered = _filtered(wanted)
    if filtered:
        at = _like(logits, filtered, torch.long)
        order = _order(scaled[at])
        kept = _keep(mass[at].gather(-1, order), [wanted[i] for i in filtered])
        mass[at] = torch.zeros_like(kept).scatter_(-1, order, kept)
    return mass / mass.sum(-1, keepdim=True)


def propose(mass: Tensor, wanted: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """Return a guess for every row, drawn from these chances independently of what is drawn."""
    return _invert(mass, _numbers(mass, wanted, positions, b"guess"))


def accept_or_draw(
    mass: Tensor,
    wanted: Sequence[Sampling],
    positions: Sequence[int],
    guesses: Sequence[int],
    guessed: Tensor,
) -> Tensor:
    """Return each row's guess, or another token where it is rejected.

    A guess x, drawn from q, stands with the chance min(1, p(x) / q(x)); else a token is drawn from
    what p has more than q. Together that draws from p (Leviathan et al., 2023, appendix A.1; Chen
    et al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023).

    Args:
        mass: p, [rows, vocab]: what the target would draw from.
        wanted, positions: as of `random_sample`.
        guesses: drawn by `propose`.
        guessed: q, [rows, vocab]: what they were drawn from.
    """
    tokens = _like(mass, guesses, torch.long)
    at = tokens[:, None]
    ratio = (mass.gather(-1, at) / guessed.gather(-1, at))[:, 0]
    stands = _numbers(mass, wanted, positions, b"accept") < ratio
    left = (mass - guessed).clamp(min=0.0)
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, mass)  # equal but for rounding
    return torch.where(stands, tokens, _invert(left, _numbers(mass, wanted, positions)))


def _filtered(wanted: Sequence[Sampling]) -> list[int]:
    """Return the rows that must be sorted, which takes longer than all else."""
    return [i for i, s in enumerate(wanted) if s.top_k or s.top_p < 1.0 or s.min_p > 0.0]


def _numbers(
    beside: Tensor, wanted: Sequence[Sampling], positions: Sequence[int], purpose: bytes = b""
) -> Tensor:
    pairs = zip(wanted, positions, strict=True)
    found = [uniform(s.seed, s.choice, place, purpose) for s, place in pairs]
    return _like(beside, found, torch.float64)


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
