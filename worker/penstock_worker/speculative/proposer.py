"""What the engine asks of whatever guesses tokens. No torch here."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from penstock_worker.request import Request

Room = Callable[[Request, int], int]
"""Makes room in a request's block table for so many guesses behind its known tokens, as far as that
preempts nobody; returns for how many there is room."""


class Proposal(NamedTuple):
    """What is guessed for a request."""

    tokens: list[int]
    probabilities: list[Any]
    """Where tokens were drawn: what from, float64 tensors [vocab of the target]."""


NOTHING: Final = Proposal([], [])


class Proposer(Protocol):
    """Guesses how outputs go on."""

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        """Return draft tokens for each request, none where nothing is to be guessed.

        Args:
            running: requests in any state; guesses are of use where one token is pending.
            room: for a proposer that stores something for each guess in the request's blocks.
        """
