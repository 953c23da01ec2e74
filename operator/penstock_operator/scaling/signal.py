"""One measured number, and whether a decision may rest on it.

Missing is not zero: a gauge that no worker reported says nothing, and half of the workers reporting
says half. So each number travels with its age and the share of workers that it covers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

MAX_AGE = 45.0
"""Seconds after which a number is stale: three scrapes at Prometheus' usual 15 s."""
MIN_COVERAGE = 0.8
"""Share of the ready workers that must have reported."""


class Health(StrEnum):
    """What a signal is worth."""

    FRESH = "fresh"
    STALE = "stale"
    PARTIAL = "partial"
    ABSENT = "absent"
    INVALID = "invalid"


@dataclass(frozen=True)
class Signal:
    """A value (None: nobody reported), its age in seconds, its share of workers reporting."""

    value: float | None
    age: float = 0.0
    coverage: float = 1.0

    @property
    def health(self) -> Health:
        """Return whether, and why not, the value can be used. No gauge of ours is negative."""
        if self.value is None:
            return Health.ABSENT
        if not (isfinite(self.value) and isfinite(self.age)) or self.value < 0 or self.age < 0:
            return Health.INVALID
        if self.age > MAX_AGE:
            return Health.STALE
        return Health.FRESH if self.coverage >= MIN_COVERAGE else Health.PARTIAL

    @property
    def fresh(self) -> bool:
        """Whether a decision in either direction may rest on it."""
        return self.health is Health.FRESH

    @property
    def at_least(self) -> float:
        """Return what is surely there: a partial sum is a lower bound, all else nothing."""
        if self.value is not None and self.health in (Health.FRESH, Health.PARTIAL):
            return self.value
        return 0.0


ABSENT = Signal(None)


def worst(signals: Iterable[Signal]) -> Health:
    """Return the first health that is not fresh, or fresh."""
    return next((s.health for s in signals if not s.fresh), Health.FRESH)


def added(signals: Sequence[Signal]) -> Signal:
    """Return the sum; as old as its oldest part, and absent when a part is."""
    values = [signal.value for signal in signals]
    if not signals or None in values:
        return ABSENT
    return Signal(
        sum(value for value in values if value is not None),
        max(signal.age for signal in signals),
        min(signal.coverage for signal in signals),
    )
