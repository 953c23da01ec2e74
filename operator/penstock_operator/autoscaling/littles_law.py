"""L = λ·W as a check of the metrics themselves. Pure.

Over any stretch of time the requests that were in the gateways, summed over time, equal the time
that each of them spent there, summed over requests (Little, "A proof for the queuing formula
L = λW", 1961). One side is measured by gauges, the other by a histogram of durations: when they
differ much, something that the scaler rests on lies. Two things are allowed for: requests that have
not ended yet are on the first side only, and a gauge that is read now and then is a sample (of n
requests seen, the root of n by chance).
"""

from dataclasses import dataclass
from math import exp, isfinite, sqrt

FADES = 300.0
"""Seconds over which both sides are summed."""
ENOUGH = 20.0
"""Request-seconds, and requests, below which the difference says nothing."""
DEVIATIONS = 2.0
"""Standard deviations of a sample that are put down to chance."""


@dataclass(frozen=True)
class LittlesLaw:
    """Both sides, in request-seconds."""

    present: float = 0.0
    """∫ L dt."""
    spent: float = 0.0
    """λ·W·t: durations of the requests that ended."""
    ended: float = 0.0
    """How many did."""
    now: float = 0.0
    """Requests that are there now."""
    seen: float = 0.0
    """Requests that were there when a scrape was read, summed over scrapes."""

    def after(
        self,
        present: float | None,
        spent: float | None,
        ended: float | None,
        now: float | None,
        seconds: float,
    ) -> "LittlesLaw":
        """Return both sides after `seconds` with `present` requests on average and `now` at last,
        while `ended` requests ended that had `spent` so many seconds together."""
        values = (present, spent, ended, now)
        if present is None or spent is None or ended is None or now is None:
            return self
        if not all(isfinite(value) for value in values if value is not None):
            return self
        kept = exp(-max(0.0, seconds) / FADES)
        return LittlesLaw(
            kept * self.present + present * seconds,
            kept * self.spent + spent,
            kept * self.ended + ended,
            now,
            kept * self.seen + present,
        )

    @property
    def difference(self) -> float | None:
        """Return |L − λ·W| / L; None: too little happened to tell."""
        if min(self.present, self.ended, self.seen) < ENOUGH:
            return None
        unfinished = self.now * self.spent / self.ended
        by_chance = DEVIATIONS * self.present / sqrt(self.seen)
        differ = abs(self.present - self.spent) - unfinished - by_chance
        return max(0.0, differ) / self.present
