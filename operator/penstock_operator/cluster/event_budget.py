"""How many Events one object may cause: something that flaps must not fill the API server.

The numbers are those of client-go's spam filter: a burst, then one every five minutes.
"""

from collections import OrderedDict

BURST = 25
REFILL = 300.0
"""Seconds for one more."""
REMEMBERED = 4096
"""Objects; whoever has been quiet for longest is forgotten, and may burst again."""


class EventBudget:
    """A token bucket for each object."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, uid: str, now: float) -> bool:
        """Return whether an object may cause an Event now; `now` is in seconds and never falls."""
        left, since = self._buckets.pop(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - since) / REFILL)
        allowed = left >= 1.0
        self._buckets[uid] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed
