"""What has happened in this process since the others were told."""

from collections.abc import Callable
from typing import Any

Event = list[Any]
"""What happened, to what, and more by kind; plain values."""


class ChangeLog:
    """Collects, until it is read.

    Args:
        wake: is called when there is something to tell, once until it is read.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._events: list[Event] = []
        self._workers: set[str] = set()
        self._awake = False

    def note(self, event: Event) -> None:
        """Something happened."""
        self._events.append(event)
        self.touched()

    def touch(self, worker: str) -> None:
        """What this process has on a worker is not what it was."""
        self._workers.add(worker)
        self.touched()

    def touched(self) -> None:
        """Something else has changed that the others are told of."""
        if not self._awake:
            self._awake = True
            self._wake()

    def read(self) -> tuple[list[Event], set[str]]:
        """Return what happened, and on which workers there is something else now; forget it."""
        found = self._events, self._workers
        self._events, self._workers, self._awake = [], set(), False
        return found
