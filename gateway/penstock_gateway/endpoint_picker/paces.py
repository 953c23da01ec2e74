"""How fast workers stream, by the pieces that pass by."""

from collections.abc import Callable
from typing import Final

FEW: Final = 8
"""Pieces of a stream that say nothing yet about its pace."""


class Pace:
    """The pace of one stream. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.pieces = 0
        self._began = self._heard = 0.0

    def heard(self, now: float) -> None:
        """A piece has come."""
        if not self.pieces:
            self._began = now
        self.pieces += 1
        self._heard = now

    @property
    def mean_pause(self) -> float:
        """Seconds between two pieces."""
        return (self._heard - self._began) / max(1, self.pieces - 1)


class Paces:
    """Streams under way, by worker.

    Args:
        streamed: is told of each stream's worker and mean pause, in seconds, when it has ended.
    """

    def __init__(self, streamed: Callable[[str, float], None]) -> None:
        self._streamed = streamed
        self._live: dict[str, set[Pace]] = {}

    def begin(self, worker: str) -> Pace:
        """Return what follows a stream that begins."""
        pace = Pace()
        self._live.setdefault(worker, set()).add(pace)
        return pace

    def end(self, worker: str, pace: Pace, *, whole: bool) -> None:
        """A stream is over."""
        live = self._live.get(worker, set())
        live.discard(pace)
        if not live:
            self._live.pop(worker, None)
        if whole and pace.pieces >= FEW:
            self._streamed(worker, pace.mean_pause)

    def under_way(self, worker: str) -> list[float]:
        """Return the mean pause of each stream under way, in seconds."""
        return [one.mean_pause for one in self._live.get(worker, ()) if one.pieces >= FEW]
