"""Whether a machine's clock can be believed when something is to be deleted by it. Pure.

A clock that is wrong, on a node that has just booted or by a mistake, would end the time of every
file at once, and what is deleted is gone. So nothing is, until the clock has gone on evenly, beside
the one that only counts, for as long as it takes somebody to put it right.
"""

from dataclasses import dataclass

PATIENCE = 3600.0
"""Seconds for which a clock must have gone on evenly."""
TOLERANCE = 60.0
"""Seconds that it may be put forward by; what is less does no harm."""


@dataclass(frozen=True)
class Steadiness:
    """How long a clock has gone on evenly, by looks at it now and then."""

    wall: float
    """Seconds since 1970, at the last look."""
    monotonic: float
    """Seconds by the clock that is never set, at the last look."""
    since: float
    """The same since when it has not jumped forward."""

    @classmethod
    def begun(cls, wall: float, monotonic: float) -> "Steadiness":
        """Return what the first look says: nothing."""
        return cls(wall, monotonic, monotonic)

    def seen(self, wall: float, monotonic: float) -> "Steadiness":
        """Return what is known after another look."""
        ahead = (wall - self.wall) - (monotonic - self.monotonic)
        return Steadiness(wall, monotonic, monotonic if ahead > TOLERANCE else self.since)

    @property
    def believed(self) -> bool:
        """Whether something may be deleted by this clock."""
        return self.monotonic - self.since >= PATIENCE
