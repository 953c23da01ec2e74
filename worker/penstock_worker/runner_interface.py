"""What the engine asks of whatever computes its steps. No torch here."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from penstock_worker.messages import TokenLogprobs
from penstock_worker.step import Slice


class SampledToken(NamedTuple):
    """A token sampled from what the model predicts."""

    token: int
    logprobs: TokenLogprobs | None = None
    """Where asked for."""


class SliceOutput(NamedTuple):
    """What came of a slice."""

    sampled: Sequence[SampledToken] = ()
    """If it reaches the last known token: one behind that, and one behind each draft."""
    scores: Sequence[TokenLogprobs] = ()
    """Of the tokens in `Slice.scored`."""


class Runner(Protocol):
    """Computes slices; the engine knows no more of it."""

    def run(
        self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
    ) -> list[SliceOutput]:
        """Copy blocks of KV (from, to), in order; then compute the slices.

        Returns what came of each slice.
        """


class Ranks(Protocol):
    """Processes that compute together with a runner's, some of them on other nodes."""

    @property
    def leaving(self) -> str:
        """Which of them has to end soon; empty while none has."""

    def heed(self, wake: Callable[[], None]) -> None:
        """Have `wake` called from another thread when `leaving` begins, or one has ended."""

    def check(self) -> None:
        """Raise if one of them has ended."""
