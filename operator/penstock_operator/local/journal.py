"""What the runtime did and why, in words: for the log, `penstock get` and the progress of `up`."""

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 50


@dataclass(frozen=True)
class Event:
    """One thing that happened to one process or pool."""

    sequence: int
    """Counts from 1 in one runtime."""
    time: str
    """RFC 3339."""
    object: str
    """Process id, or `deployment/pool`."""
    message: str


class Journal:
    """The latest events; each is also written to the log the moment it happens."""

    def __init__(self, wall_clock: Callable[[], str]) -> None:
        self._wall_clock = wall_clock
        self._count = 0
        self._events: deque[Event] = deque(maxlen=KEPT)

    def tell(self, subject: str, message: str) -> None:
        """Add an event."""
        self._count += 1
        event = Event(self._count, self._wall_clock(), subject, message)
        self._events.append(event)
        sys.stderr.write(f"{event.time} {subject}: {message}\n")

    def to_json(self) -> list[dict[str, Any]]:
        """Return the latest events, oldest first."""
        return [asdict(event) for event in self._events]
