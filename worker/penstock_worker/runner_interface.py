"""What the engine asks of whatever computes its steps. No torch here."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from penstock_worker.messages import TokenLogprobs
from penstock_worker.step import Slice


class Draw(NamedTuple):
    """A token drawn from what the model predicts."""

    token: int
    logprobs: TokenLogprobs | None = None
    """Where asked for."""


class Computed(NamedTuple):
    """What came of a slice."""

    draws: Sequence[Draw] = ()
    """If it reaches the last known token: one behind that, and one behind each draft."""
    scores: Sequence[TokenLogprobs] = ()
    """Of the tokens in `Slice.scored`."""


class Runner(Protocol):
    """Computes slices; the engine knows no more of it."""

    def run(
        self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
    ) -> list[Computed]:
        """Copy blocks of KV (from, to), in order; then compute the slices.

        Returns what came of each slice.
        """
