"""The level of demand, and how far it has been off: head-room from measured error.

Real traffic is far from Poisson (its counts over a minute scatter 20 to 160 times more), so a
formula for the scatter would be wrong on the first day. What is measured instead: at every moment
the level of one lead ago is compared with the demand that then came. The q-quantile of these errors
is what the next lead needs on top of the level. Demand is taken as a queue feels it: what comes and
goes within the time that a first token may take waits, and needs no replica. No trend is
extrapolated: on the traces tried it gained nothing and overshot after every peak.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, sqrt

SMOOTHING = 30.0
"""Seconds of memory of the level (exponentially weighted)."""
MEMORY = 7200.0
"""Seconds that errors are remembered."""
ENOUGH = 24
"""Errors without which the prior is used."""
QUANTILE = 0.93
"""Of past errors."""
PRIOR = 1.0
"""Error that is assumed before anything is known, in units of the level's root."""
SMALL = 1.0
"""Replicas of work below which errors do not shrink any more."""


@dataclass(frozen=True)
class Forecast:
    """The level now, levels that wait to be judged, and judged ratios by time."""

    level: float = 0.0
    felt: float | None = None
    """Demand over the time that requests may wait; None: not known yet."""
    updated: float | None = None
    """When, in seconds; None: never."""
    born: float = 0.0
    """When the first demand was seen."""
    pending: tuple[tuple[float, float], ...] = ()
    """(time, level) of the last lead."""
    errors: tuple[tuple[float, float], ...] = ()
    """(time, demand beyond the level of one lead before, in units of that level's root)."""

    def after(self, demand: float, now: float, lead: float, patience: float = 0.0) -> "Forecast":
        """Return the forecast that has seen `demand`.

        Args:
            demand: replica-seconds per second, since the last update.
            now: seconds of a clock that never goes back.
            lead: seconds from a decision until its replicas serve.
            patience: seconds that a request may wait.
        """
        if self.updated is None:
            return replace(self, level=demand, felt=demand, updated=now, born=now)
        elapsed = max(0.0, now - self.updated)
        level = _closer(self.level, demand, elapsed, SMOOTHING)
        felt = demand if self.felt is None else _closer(self.felt, demand, elapsed, patience)
        due = bisect_left(self.pending, (now - lead, inf))
        errors = self.errors
        if due:
            when, judged = self.pending[due - 1]
            if when >= self.born + lead:
                errors = (*errors, (now, (felt - judged) / _scatter(judged)))
        errors = errors[bisect_left(errors, (now - MEMORY, -inf)) :]
        pending = (*self.pending[due:], (now, level))
        return Forecast(level, felt, now, self.born, pending, errors)

    def bound(self, factor: float = 1.0) -> float:
        """Return what demand will rarely exceed one lead from now.

        factor: on the quantile of past errors; 1 covers them as they were.
        """
        if len(self.errors) < ENOUGH:  # a pool that never had work needs no room for more
            return self.level + factor * PRIOR * sqrt(self.level)
        error = max(0.0, _quantile([error for _, error in self.errors], QUANTILE))
        return self.level + factor * error * _scatter(self.level)

    @property
    def mean(self) -> float:
        """Return what demand will be one lead from now, on average."""
        if not self.errors:
            return self.level
        error = sum(error for _, error in self.errors) / len(self.errors)
        return max(0.0, self.level + error * _scatter(self.level))


def _closer(average: float, value: float, elapsed: float, memory: float) -> float:
    """Return an exponentially weighted average with what was so for the last `elapsed` seconds."""
    return value if memory <= 0 else average + (1 - exp(-elapsed / memory)) * (value - average)


def _scatter(level: float) -> float:
    """Return the unit of errors: the sum of independent clients scatters with its root."""
    return sqrt(max(level, SMALL))


def _quantile(values: Sequence[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
