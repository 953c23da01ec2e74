"""The last choices of workers, with what they were made from, for people who look."""

from collections import deque
from collections.abc import Iterator
from typing import Final

from penstock_gateway.routing.policy import Choice

REMEMBERED: Final = 200


class Decision:
    """A request was given to a worker.

    Args:
        at: monotonic seconds.
        request: its id.
        model: that it names.
        attempt: from 1; later ones are retries and resumed streams.
        choice: of the worker.
        waited: how long the request had to wait before, for people; may be empty.
    """

    def __init__(
        self,
        at: float,
        request: str,
        model: str,
        attempt: int,
        choice: Choice,
        waited: str = "",
    ) -> None:
        self.at = at
        self.request = request
        self.model = model
        self.attempt = attempt
        self.choice = choice
        self.waited = waited


class Decisions:
    """Bounded memory of decisions."""

    def __init__(self) -> None:
        self._kept: deque[Decision] = deque(maxlen=REMEMBERED)

    def __iter__(self) -> Iterator[Decision]:
        """Iterate, the newest first."""
        return reversed(self._kept)

    def note(self, decision: Decision) -> None:
        """Remember a decision, and forget the oldest one."""
        self._kept.append(decision)
