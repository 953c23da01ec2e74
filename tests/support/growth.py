"""Whether processes grow: memory and descriptors over time, and the trend behind the noise."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

EVERY_SECONDS: Final = 0.5
WARM_UP: Final = 0.4
"""Of the time: caches fill, allocators find their size."""
MOST_POINTS: Final = 300
"""Of a trend: it looks at all pairs."""
MOST_KIB: Final = 8 * 1024
"""By which memory may drift within a run, what allocators do of themselves."""
MOST_DESCRIPTORS: Final = 8
PROC: Final = Path("/proc")

Point = tuple[float, float]
"""Seconds, and a value."""


class Drift(NamedTuple):
    """By how much a process has grown after its warm-up."""

    memory: float
    """KiB."""
    descriptors: float
    """Beyond those of connections that are known to be open."""

    @property
    def too_much(self) -> bool:
        """It would not go on like this for ever."""
        return self.memory > MOST_KIB or self.descriptors > MOST_DESCRIPTORS


def slope(points: Sequence[Point]) -> float:
    """Return the trend of a series, per second; up to 29 % of outliers do not bend it.

    Theil and Sen's estimator: the median of the slopes between all pairs of points.
    """
    some = points[:: max(1, len(points) // MOST_POINTS)]
    pairs = itertools.combinations(some, 2)
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in pairs if x1 > x0]
    return statistics.median(slopes) if slopes else 0.0


def drift(points: Sequence[Point]) -> float:
    """Return by how much a series has gone up since its warm-up, but for its noise."""
    if not points:
        return 0.0
    first, last = points[0][0], points[-1][0]
    since = first + (last - first) * WARM_UP
    return slope([point for point in points if point[0] >= since]) * (last - since)


class Watched(NamedTuple):
    """Processes that are looked at together."""

    processes: Sequence[int]
    explained: Callable[[], int]
    """Returns how many of their descriptors are connections that are known to be open."""


class Growth:
    """Looks at processes until it is cancelled.

    Args:
        watched: by what they are called.
    """

    def __init__(self, watched: Mapping[str, Watched]) -> None:
        self._watched = watched
        self._memory: dict[str, list[Point]] = {name: [] for name in watched}
        self._descriptors: dict[str, list[Point]] = {name: [] for name in watched}

    async def watch(self) -> None:
        """Go on until cancelled."""
        while True:
            now = time.monotonic()
            for name, (processes, explained) in self._watched.items():
                family = [found for process in processes for found in _family(process)]
                self._memory[name].append((now, sum(map(_memory, family))))
                unexplained = sum(map(descriptors, family)) - explained()
                self._descriptors[name].append((now, unexplained))
            await asyncio.sleep(EVERY_SECONDS)

    def drifts(self) -> dict[str, Drift]:
        """Return by how much each has grown."""
        return {
            name: Drift(drift(self._memory[name]), drift(self._descriptors[name]))
            for name in self._watched
        }


def descriptors(process: int) -> int:
    """Return how many file descriptors a process has open."""
    return sum(1 for _ in (PROC / str(process) / "fd").iterdir())


def _memory(process: int) -> int:
    """Return KiB of its own: not the weights, which are files."""
    lines = (PROC / str(process) / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _family(process: int) -> Iterator[int]:
    """Yield a process and all that it has started."""
    yield process
    for task in (PROC / str(process) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))
