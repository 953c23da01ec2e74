"""Finds workers that are much slower than the others of their pool, and puts them aside. Pure.

A worker on a throttled or shared machine answers correctly and passes every probe, and each of its
streams crawls. What is compared are the mean pauses between events. A neighbour's burst makes any
worker slow for a second, so it takes two findings, some seconds apart, the second one on streams
that were not part of the first. Never more than half of a pool is put aside: if most are slow, slow
is what the pool is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from statistics import median
from typing import Final

FACTOR: Final = 4.0
"""Times slower than the median of the others."""
NOTICEABLE: Final = 0.02
"""Seconds per event by which it must be slower, too."""
ENOUGH: Final = 3
"""Streams that must have been seen."""
CONFIRMED: Final = 5.0
"""Seconds that a worker must have been slow for."""
SUSPICION: Final = 60.0
"""Seconds after which a suspicion that nothing has confirmed is void."""
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 300.0
"""Seconds for which a worker is put aside; twice as long each time in a row."""
_WEIGHT: Final = 0.2


@dataclass(frozen=True)
class Pace:
    """How fast a worker streams; times are monotonic seconds."""

    mean: float = 0.0
    """Seconds between events."""
    streams: int = 0
    """Seen since it was last put aside."""
    ejections: int = 0
    """In a row."""
    aside_until: float = 0.0
    suspected: float | None = None
    """When it was first found slow; None: it is not suspected."""

    def ended(self, mean: float) -> "Pace":
        """Return the pace after one more stream."""
        weight = max(_WEIGHT, 1 / (self.streams + 1))
        known = self.mean + weight * (mean - self.mean)
        # Long enough without a relapse, the past is forgotten.
        ejections = self.ejections if self.streams < 10 * ENOUGH else 0
        return Pace(known, self.streams + 1, ejections, self.aside_until, self.suspected)

    def with_streams(self, means: Iterable[float]) -> "Pace":
        """Return the pace as it will be when streams under way have ended as they go now.

        A stream that crawls is long under way: its end would come too late.
        """
        return reduce(Pace.ended, means, self)

    def found_slow(self, now: float) -> "Pace":
        """Return the pace of a worker that looks slow: suspected first, aside if that lasts."""
        age = None if self.suspected is None else now - self.suspected
        if age is None or age > SUSPICION:
            return replace(self, mean=0.0, streams=0, suspected=now)
        return self.put_aside(now) if age >= CONFIRMED else self

    def found_well(self) -> "Pace":
        """Return the pace of a worker that does not look slow."""
        return self if self.suspected is None else replace(self, suspected=None)

    def put_aside(self, now: float) -> "Pace":
        """Return the pace of a worker that is put aside; what is known of it is forgotten."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.ejections, 16))
        return Pace(0.0, 0, self.ejections + 1, now + pause)


def outliers(pool: Mapping[str, Pace], now: float) -> list[str]:
    """Return the workers that look slow, slowest first; no more than may be put aside.

    Args:
        pool: the ready workers of one pool.
        now: monotonic seconds.
    """
    used = {id_: pace for id_, pace in pool.items() if pace.aside_until <= now}
    room = len(pool) // 2 - (len(pool) - len(used))
    known = {id_: pace.mean for id_, pace in used.items() if pace.streams >= ENOUGH}
    slow = [id_ for id_ in known if _is_slow(id_, known)]
    return sorted(slow, key=lambda id_: -known[id_])[: max(0, room)]


def _is_slow(worker: str, known: Mapping[str, float]) -> bool:
    others = [mean for id_, mean in known.items() if id_ != worker]
    if not others:
        return False
    usual = median(others)
    return known[worker] > FACTOR * usual and known[worker] > usual + NOTICEABLE
