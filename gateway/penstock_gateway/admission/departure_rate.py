"""How fast requests leave, to tell honestly when a refused one should come again."""

MEMORY = 0.9
"""Share of the old estimate that a new observation leaves."""
SOONEST = 1.0
LATEST = 30.0
"""Seconds; SDKs really sleep that long, and much can change meanwhile."""


class DepartureRate:
    """A moving average of the seconds between two requests that end.

    Args:
        interval: that average.
        last: when the last one ended.
    """

    def __init__(self, interval: float | None = None, last: float | None = None) -> None:
        self.interval = interval
        self.last = last

    def ended(self, now: float) -> "DepartureRate":
        """Return the rate after one more request has ended."""
        if self.last is None:
            return DepartureRate(None, now)
        gap = now - self.last
        known = gap if self.interval is None else MEMORY * self.interval + (1 - MEMORY) * gap
        return DepartureRate(known, now)

    def wait(self, ahead: int) -> float:
        """Return the seconds until so many requests that wait will have had their turn."""
        if self.interval is None:
            return SOONEST
        return min(LATEST, max(SOONEST, ahead * self.interval))
