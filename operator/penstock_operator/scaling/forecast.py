"""The level of demand, and how far it has been off: head-room from measured error.

Real traffic is far from Poisson (its counts over a minute scatter 20 to 160 times more), so a
formula for the scatter would be wrong on the first day. What is measured instead: at every moment
the level of one lead ago is compared with the demand that then came. The q-quantile of these errors
is what the next lead needs on top of the level. Demand is taken as a queue feels it: what comes and
goes within the time that a first token may take waits, and needs no replica.

How much of the past the level should hold depends on the traffic: a ramp wants the last seconds, a
steady stream of bursts the last minutes. So several levels are kept, each with its own errors, and
the one that has needed the least head-room is followed (prediction with expert advice:
Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006). No trend is extrapolated: on the
traces tried it gained nothing and overshot after every peak.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, sqrt

SMOOTHINGS = (15.0, 30.0, 60.0, 120.0, 240.0, 480.0)
"""Seconds of memory of the levels (exponentially weighted)."""
FIRST = 1
"""The one that is followed before errors are known."""
STAY = 0.03
"""Head-room that another level must save to be followed, in units of the level's root."""
MEMORY = 7200.0
"""Seconds that errors are remembered."""
ENOUGH = 24
"""Errors without which the prior is used."""
QUANTILE = 0.95
"""Of past errors."""
PRIOR = 1.0
"""Error that is assumed before anything is known, in units of the level's root."""
SMALL = 1.0
"""Replicas of work below which errors do not shrink any more."""


@dataclass(frozen=True)
class Level:
    """One level now, what it was and waits to be judged, and its errors by time."""

    smoothing: float
    """Seconds of its memory."""
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

    def after(self, demand: float, now: float, lead: float, patience: float = 0.0) -> "Level":
        """Return the level that has seen `demand`.

        Args:
            demand: replica-seconds per second, since the last update.
            now: seconds of a clock that never goes back.
            lead: seconds from a decision until its replicas serve.
            patience: seconds that a request may wait.
        """
        if self.updated is None:
            return replace(self, level=demand, felt=demand, updated=now, born=now)
        elapsed = max(0.0, now - self.updated)
        level = _closer(self.level, demand, elapsed, self.smoothing)
        felt = demand if self.felt is None else _closer(self.felt, demand, elapsed, patience)
        due = bisect_left(self.pending, (now - lead, inf))
        errors = self.errors
        if due:
            when, judged = self.pending[due - 1]
            if when >= self.born + lead:
                errors = (*errors, (now, (felt - judged) / _scatter(judged)))
        errors = errors[bisect_left(errors, (now - MEMORY, -inf)) :]
        pending = (*self.pending[due:], (now, level))
        return replace(self, level=level, felt=felt, updated=now, pending=pending, errors=errors)

    @property
    def known(self) -> bool:
        """Whether it has erred often enough to tell how far."""
        return len(self.errors) >= ENOUGH

    @property
    def error(self) -> float:
        """Return how far demand rarely exceeds it, in units of its root."""
        return max(0.0, _quantile([error for _, error in self.errors], QUANTILE))

    def bound(self, factor: float) -> float:
        """Return what demand will rarely exceed one lead from now."""
        if not self.known:  # a pool that never had work needs no room for more
            return self.level + factor * PRIOR * sqrt(self.level)
        return self.level + factor * self.error * _scatter(self.level)

    @property
    def mean(self) -> float:
        """Return what demand will be one lead from now, on average."""
        if not self.errors:
            return self.level
        error = sum(error for _, error in self.errors) / len(self.errors)
        return max(0.0, self.level + error * _scatter(self.level))


@dataclass(frozen=True)
class Forecast:
    """Several levels, and which of them is followed."""

    levels: tuple[Level, ...] = tuple(Level(seconds) for seconds in SMOOTHINGS)
    followed: int = FIRST

    @classmethod
    def steady(cls, level: float) -> "Forecast":
        """Return a forecast that has always been right."""
        return cls((Level(SMOOTHINGS[FIRST], level, errors=((0.0, 0.0),) * ENOUGH),), 0)

    def after(self, demand: float, now: float, lead: float, patience: float = 0.0) -> "Forecast":
        """Return the forecast that has seen `demand`.

        Args:
            demand: replica-seconds per second, since the last update.
            now: seconds of a clock that never goes back.
            lead: seconds from a decision until its replicas serve.
            patience: seconds that a request may wait.
        """
        levels = tuple(one.after(demand, now, lead, patience) for one in self.levels)
        return Forecast(levels, _best(levels, self.followed))

    @property
    def level(self) -> float:
        """Demand now."""
        return self.levels[self.followed].level

    @property
    def mean(self) -> float:
        """Return what demand will be one lead from now, on average."""
        return self.levels[self.followed].mean

    def bound(self, factor: float = 1.0) -> float:
        """Return what demand will rarely exceed one lead from now.

        factor: on the quantile of past errors; 1 covers them as they were.
        """
        return self.levels[self.followed].bound(factor)


def _best(levels: Sequence[Level], followed: int) -> int:
    """Return which level has needed the least head-room; on average all are equally high."""
    if not all(one.known for one in levels):
        return followed
    costs = [one.error + STAY for one in levels]
    costs[followed] -= STAY
    return costs.index(min(costs))


def _closer(average: float, value: float, elapsed: float, memory: float) -> float:
    """Return an exponentially weighted average with what was so for the last `elapsed` seconds."""
    return value if memory <= 0 else average + (1 - exp(-elapsed / memory)) * (value - average)


def _scatter(level: float) -> float:
    """Return the unit of errors: the sum of independent clients scatters with its root."""
    return sqrt(max(level, SMALL))


def _quantile(values: Sequence[float], quantile: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
