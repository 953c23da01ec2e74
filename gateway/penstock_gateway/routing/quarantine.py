"""Keeps requests away that seem to kill their workers. Pure.

A request is suspected when a worker breaks under it, and cleared as soon as a worker gets any
further with it. Two workers in a row are the most that one request may cost. A worker that turns
out to be the one from before, and not a restarted one, did not die: it does not count any more.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

MOST_WORKERS: Final = 2
PERIOD: Final = 600.0
"""Seconds for which a request is kept away."""
CAPACITY: Final = 10_000
"""Requests remembered; the oldest go first."""


@dataclass
class _Suspicion:
    workers: set[str] = field(default_factory=set)
    until: float = 0.0


class Quarantine:
    """Suspected requests, by a hash of their body; times are monotonic seconds."""

    def __init__(self) -> None:
        self._suspicions: OrderedDict[int, _Suspicion] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._suspicions)

    def suspect(self, request: int, worker: str, now: float) -> bool:
        """A worker broke under a request; return whether the request is kept away from now on."""
        found = self._suspicions.setdefault(request, _Suspicion())
        if found.until < now:
            found.workers.clear()
        found.workers.add(worker)
        found.until = now + PERIOD
        self._suspicions.move_to_end(request)
        if len(self._suspicions) > CAPACITY:
            self._suspicions.popitem(last=False)
        return len(found.workers) >= MOST_WORKERS

    def clear(self, request: int) -> None:
        """A worker has got further with a request, unless it is kept away already."""
        found = self._suspicions.get(request)
        if found is not None and len(found.workers) < MOST_WORKERS:
            del self._suspicions[request]

    def absolve(self, worker: str) -> None:
        """A worker has not died after all."""
        for request, found in list(self._suspicions.items()):
            found.workers.discard(worker)
            if not found.workers:
                del self._suspicions[request]

    def holds(self, request: int, now: float) -> bool:
        """Return whether a request is kept away."""
        found = self._suspicions.get(request)
        return found is not None and len(found.workers) >= MOST_WORKERS and found.until >= now
