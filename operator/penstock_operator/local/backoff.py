"""Exponential back-off for processes that die: how long a pool waits before its next start."""

from dataclasses import dataclass
from math import inf

LONGEST = 60.0
HEALTHY = 60.0
"""A process that served this long, in seconds, was not part of a crash loop."""


@dataclass(frozen=True)
class Backoff:
    """Failures of one pool in a row. Times are in seconds of one monotonic clock."""

    failures: int = 0
    last: float = -inf
    """When the last counted failure happened."""

    @property
    def delay(self) -> float:
        """Seconds to wait after the last failure: 0, then 1, 2, 4 … 60."""
        return min(LONGEST, 2.0 ** min(self.failures - 1, 10)) if self.failures else 0.0

    @property
    def retry_at(self) -> float:
        """Earliest time of the next start."""
        return self.last + self.delay

    def after_exit(self, started: float, ready_since: float | None, now: float) -> "Backoff":
        """Return the back-off after a process died unasked.

        Processes that were started before the last failure tell nothing about the attempt that
        followed it: workers which die together count once.
        """
        if started < self.last:
            return self
        served = ready_since is not None and now - ready_since >= HEALTHY
        return Backoff(failures=1 if served else self.failures + 1, last=now)
