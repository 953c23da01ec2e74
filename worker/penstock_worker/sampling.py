"""Draws the next token of every row of a batch.

Draws are counter-based: the random number is a hash of (seed, choice, position) and nothing else.
A request that was preempted, or continued by another worker, draws what it would have drawn, and a
row's draw does not depend on the rows beside it.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from penstock_worker.messages import Sampling, TokenLogprobs

GREEDY_BELOW = 1e-5
"""Lower temperatures would overflow; what they would draw is the likeliest token."""


@dataclass(slots=True)
class Row:
    """What one row of logits is sampled with."""

    sampling: Sampling
    tokens: Sequence[int]
    """Prompt and output so far."""
    prompt_length: int
    forbidden: Sequence[int]
    """Tokens that must not be drawn (stop tokens before `min_tokens`)."""
    allowed: bytes = b""
    """A bit for each token that a grammar allows, the lowest first; empty allows all."""

    @property
    def position(self) -> int:
        """Index of the token to draw in the output."""
        return len(self.tokens) - self.prompt_length

    @property
    def plain(self) -> bool:
        """Whether the model's likeliest token is all that is wanted, so no logits are needed."""
        wanted = self.sampling
        return (
            wanted.temperature < GREEDY_BELOW
            and wanted.logprobs is None
            and not self.forbidden
            and not self.allowed
            and not wanted.logit_bias
            and wanted.repetition_penalty == 1.0
            and not wanted.presence_penalty
            and not wanted.frequency_penalty
        )


def sample(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Return a token and, where asked for, log-probabilities for every row.

    Args:
        logits: [rows, vocab], float32, on any device; changed in place by penalties.
        rows: one per row of logits.
    """
    reported = _log_softmax_where_wanted(logits, rows)
    chosen: list[int] = choose(logits, rows).tolist()
    return chosen, [
        None if table is None else _report(table, token, row.sampling.logprobs or 0)
        for table, token, row in zip(reported, chosen, rows, strict=True)
    ]


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return a token for every row, on the device of the logits; for the arguments see `sample`."""
    for index, row in enumerate(rows):
        _adjust(logits[index], row)
    tokens = logits.argmax(-1)
    drawn = [i for i, row in enumerate(rows) if row.sampling.temperature >= GREEDY_BELOW]
    if drawn:
        places = _like(logits, drawn, torch.long)
        found = _draw(logits.index_select(0, places), [rows[index] for index in drawn])
        tokens.index_copy_(0, places, found)
    return tokens


def score(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Return the log-probability of a given token, and `count` alternatives, for every row.

    Args:
        logits: [rows, vocab], float32.
        tokens: one per row.
        count: alternatives to report.
    """
    tables = logits.log_softmax(-1)
    return [_report(table, token, count) for table, token in zip(tables, tokens, strict=True)]


def uniform(seed: int, choice: int, position: int) -> float:
    """Return a number in [0, 1) that depends on the arguments only."""
    key = struct.pack("<qqq", seed, choice, position)
    (bits,) = struct.unpack("<Q", hashlib.blake2b(key, digest_size=8).digest())
    return float(bits >> 11) * 2.0**-53


def _adjust(logits: Tensor, row: Row) -> None:
    """Apply penalties, bias and bans to one row. Order as in vLLM; most rows have none of them."""
    wanted = row.sampling
    if wanted.repetition_penalty != 1.0:
        seen = _like(logits, sorted(set(row.tokens)), torch.long)
        values = logits[seen]
        factor = wanted.repetition_penalty
        logits[seen] = torch.where(values > 0, values / factor, values * factor)
    if row.position and (wanted.frequency_penalty or wanted.presence_penalty):
        times = Counter(row.tokens[row.prompt_length :])
        seen = _like(logits, list(times), torch.long)
        counts = _like(logits, list(times.values()), torch.float32)
        logits[seen] -= wanted.frequency_penalty * counts + wanted.presence_penalty
    for token, bias in wanted.logit_bias.items():
        logits[token] += bias
    if row.allowed:
        forbidden = ~_unpacked(row.allowed, len(logits)).to(logits.device)
        logits.masked_fill_(forbidden, -torch.inf)
    if row.forbidden:
        kept = logits.index_fill(0, _like(logits, row.forbidden, torch.long), -torch.inf)
        # A grammar that is complete allows nothing else: then the output ends early.
        if not row.allowed or bool(kept.isfinite().any()):
            logits.copy_(kept)


def _unpacked(bits: bytes, count: int) -> Tensor:
    """Return the first `count` bits as booleans; those that are missing are False."""
    found = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")[:count]
    return torch.from_numpy(np.pad(found, (0, count - len(found)))).bool()


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw from each row by inverting its cumulative distribution at a counter-based number.

    Rows with a filter are drawn in sorted order, the others as they lie; each row takes the same
    way whatever its neighbours want, or its draw would depend on them.
    """
    wanted = [row.sampling for row in rows]
    scaled = logits / _like(logits, [s.temperature for s in wanted], torch.float32)[:, None]
    numbers = _like(
        logits,
        [uniform(s.seed, s.choice, r.position) for s, r in zip(wanted, rows, strict=True)],
        torch.float64,
    )
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    filtered = [i for i, s in enumerate(wanted) if s.top_k or s.top_p < 1.0 or s.min_p > 0.0]
    plain = [i for i in range(len(rows)) if i not in set(filtered)]
    if plain:
        at = _like(logits, plain, torch.long)
        tokens[at] = _invert(scaled[at].softmax(-1).double(), numbers[at])
    if filtered:
        at = _like(logits, filtered, torch.long)
        ranked, order = torch.sort(scaled[at], dim=-1, descending=True, stable=True)
        kept = _keep(ranked.softmax(-1).double(), [wanted[i] for i in filtered])
        tokens[at] = order.gather(-1, _invert(kept, numbers[at])[:, None])[:, 0]
    return tokens


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


def _like(beside: Tensor, values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return values as a tensor on the device of another one."""
    return torch.tensor(values, dtype=dtype).to(beside.device)


def _invert(mass: Tensor, numbers: Tensor) -> Tensor:
    """Return the first index at which the cumulative mass exceeds number · total."""
    cumulative = mass.cumsum(-1)
    targets = numbers[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    # Rounding may point behind the last token that has any mass.
    last = mass.shape[-1] - 1 - (mass.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(found, last)


def _log_softmax_where_wanted(logits: Tensor, rows: Sequence[Row]) -> list[Tensor | None]:
    """Log-probabilities are the model's own: before penalties and temperature, as in vLLM."""
    return [
        None if row.sampling.logprobs is None else logits[index].log_softmax(-1)
        for index, row in enumerate(rows)
    ]


def _report(table: Tensor, token: int, count: int) -> TokenLogprobs:
    values, tokens = table.topk(min(count, table.shape[-1]))
    top = list(zip(tokens.tolist(), values.tolist(), strict=True))
    logprob = float(table[token])
    return TokenLogprobs(logprob=logprob, top=top, rank=int((table > logprob).sum()) + 1)
