"""Finds the next token of every row of a batch, and what is told of it.

A draw is a function of the row's logits and (seed, choice, position): a request that was preempted,
or continued by another worker, draws what it would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from penstock_worker.messages import Sampling, TokenLogprobs
from penstock_worker.penalties import TokenHistory, penalised
from penstock_worker.random_sampling import accept_or_draw, probabilities, random_sample

GREEDY_BELOW = 1e-5
"""Lower temperatures would overflow; what they would draw is the likeliest token."""


class Guess(NamedTuple):
    """A token that another model drew, to be kept or rejected."""

    token: int
    probabilities: Tensor
    """What it was drawn from, [vocab], float64."""


@dataclass(slots=True)
class Row:
    """What one row of logits is sampled with."""

    sampling: Sampling
    position: int
    """Index of the token to draw in the output."""
    forbidden: Sequence[int] = ()
    """Tokens that must not be drawn (stop tokens before `min_tokens`)."""
    allowed: bytes = b""
    """A bit for each token that a grammar allows, the lowest first; empty allows all."""
    history: TokenHistory | None = None
    """Where penalties are asked for."""
    guess: Guess | None = None

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
            and not penalised(wanted)
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
        places = _indices(logits, drawn)
        found = _drawn(logits.index_select(0, places), [rows[index] for index in drawn])
        tokens.index_copy_(0, places, found)
    return tokens


def _drawn(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw a token for every row, or keep its guess."""
    guessed = [(index, row.guess) for index, row in enumerate(rows) if row.guess is not None]
    if not guessed:
        return random_sample(logits, *_how(rows))
    tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
    free = [index for index, row in enumerate(rows) if row.guess is None]
    if free:
        at = _indices(logits, free)
        tokens[at] = random_sample(logits[at], *_how([rows[index] for index in free]))
    at = _indices(logits, [index for index, _ in guessed])
    wanted, positions = _how([rows[index] for index, _ in guessed])
    tokens[at] = accept_or_draw(
        probabilities(logits[at], wanted),
        wanted,
        positions,
        [guess.token for _, guess in guessed],
        torch.stack([guess.probabilities for _, guess in guessed]).to(logits.device),
    )
    return tokens


def _how(rows: Sequence[Row]) -> tuple[list[Sampling], list[int]]:
    return [row.sampling for row in rows], [row.position for row in rows]


def score(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Return the log-probability of a given token, and `count` alternatives, for every row.

    Args:
        logits: [rows, vocab], float32.
        tokens: one per row.
        count: alternatives to report.
    """
    tables = logits.log_softmax(-1)
    return [_report(table, token, count) for table, token in zip(tables, tokens, strict=True)]


def _adjust(logits: Tensor, row: Row) -> None:
    """Apply penalties, bias and bans to one row. Order as in vLLM; most rows have none of them."""
    wanted = row.sampling
    if row.history is not None:
        row.history.apply(wanted, logits)
    for token, bias in wanted.logit_bias.items():
        logits[token] += bias
    if row.allowed:
        forbidden = ~_unpacked(row.allowed, len(logits)).to(logits.device)
        logits.masked_fill_(forbidden, -torch.inf)
    if row.forbidden:
        kept = logits.index_fill(0, _indices(logits, row.forbidden), -torch.inf)
        # A grammar that is complete allows nothing else: then the output ends early.
        if not row.allowed or bool(kept.isfinite().any()):
            logits.copy_(kept)


def _unpacked(bits: bytes, count: int) -> Tensor:
    """Return the first `count` bits as booleans; those that are missing are False."""
    found = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")[:count]
    return torch.from_numpy(np.pad(found, (0, count - len(found)))).bool()


def _indices(beside: Tensor, values: Sequence[int]) -> Tensor:
    """Return indices on the device of another tensor."""
    return torch.tensor(values, dtype=torch.long).to(beside.device)


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
