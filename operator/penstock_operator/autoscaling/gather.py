"""From scrapes of many targets to one signal: value, age, coverage. Pure.

A target reports when its scrape is fresh and holds the series; what a few do not report lowers the
coverage, what nobody reports is absent, and a value that cannot be (NaN, infinite, negative) makes
the whole sum invalid, because a sum would hide it.
"""

from collections.abc import Callable, Iterable, Sequence
from math import isnan

from penstock_operator.autoscaling.scrape import Labels, ScrapePair
from penstock_operator.scaling.signal import ABSENT, MAX_AGE, Signal

Value = Callable[[ScrapePair], float | None]


def gather(pairs: Sequence[ScrapePair | None], value: Value, now: float) -> Signal:
    """Return the sum of a value over targets.

    Args:
        pairs: of every target that should report; None: it has never been read.
        value: of one target; None: it does not say.
        now: seconds of the wall clock.
    """
    if not pairs:
        return ABSENT
    found = [
        (now - pair.latest.time, number)
        for pair in pairs
        if pair is not None and (number := value(pair)) is not None
    ]
    if not found:
        return ABSENT
    # Clocks of two machines differ a little.
    fresh = [(max(0.0, age), number) for age, number in found if age <= MAX_AGE]
    if not fresh:
        age, number = min(found)
        return Signal(number, age, len(found) / len(pairs))
    return Signal(sum(n for _, n in fresh), max(age for age, _ in fresh), len(fresh) / len(pairs))


def level(names: Iterable[str], where: Labels) -> Value:
    """Return how to read a gauge."""
    wanted = tuple(names)
    return lambda pair: pair.latest.total(wanted, where)


def rate(names: Iterable[str], where: Labels) -> Value:
    """Return how to read a counter, per second."""
    wanted = tuple(names)

    def value(pair: ScrapePair) -> float | None:
        rise = pair.increase(wanted, where)
        return None if rise is None else rise / pair.seconds

    return value


def late_share(
    pairs: Iterable[ScrapePair | None], name: str, where: Labels, limit: float
) -> Signal:
    """Return the share of a histogram's new observations above a limit, between its buckets
    interpolated; absent where nothing was observed."""
    rises: dict[str, float] = {}
    for pair in pairs:
        if pair is not None:
            for edge, rise in pair.by_label(f"{name}_bucket", "le", where).items():
                rises[edge] = rises.get(edge, 0.0) + rise
    buckets = sorted((float(edge), count) for edge, count in rises.items() if edge)
    if not buckets or isnan(sum(count for _, count in buckets)) or buckets[-1][1] <= 0:
        return ABSENT
    return Signal(min(1.0, max(0.0, 1 - _below(buckets, limit) / buckets[-1][1])))


def _below(buckets: Sequence[tuple[float, float]], limit: float) -> float:
    """Return how many observations are at most `limit`. Above the last edge nobody knows: late."""
    low_edge, low = 0.0, 0.0
    for edge, count in buckets:
        if limit < edge:
            if edge == float("inf"):
                return low
            return low + (count - low) * (limit - low_edge) / (edge - low_edge)
        low_edge, low = edge, count
    return low
