"""What one process exported at one moment, and how it differs from the moment before. Pure.

A target that restarted counts again from zero (a counter that fell rose by its new value, as in
Prometheus); one without a scrape before has no rate yet, because nobody knows since when it counts.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, nan

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]


@dataclass(frozen=True)
class Scrape:
    """All samples of a target at `time`, in seconds of the wall clock."""

    time: float
    values: Mapping[Series, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_name: dict[str, list[tuple[Labels, float]]] = {}
        for (name, labels), value in self.values.items():
            by_name.setdefault(name, []).append((labels, value))
        object.__setattr__(self, "_by_name", by_name)

    def series(self, name: str, where: Labels = frozenset()) -> Iterator[tuple[Labels, float]]:
        """Yield the series of a name that have at least these labels."""
        by_name: dict[str, list[tuple[Labels, float]]] = self._by_name  # type: ignore[attr-defined]
        return ((labels, v) for labels, v in by_name.get(name, ()) if where <= labels)

    def total(self, names: Iterable[str], where: Labels = frozenset()) -> float | None:
        """Return the sum of the first name that is there; None: none is.

        NaN when one of the values cannot be (infinite, negative): a sum would hide it.
        """
        for name in names:
            found = [value for _, value in self.series(name, where)]
            if found:
                return sum(found) if all(map(_sound, found)) else nan
        return None


@dataclass(frozen=True)
class ScrapePair:
    """The two latest scrapes of a target; `before` is None for one that is new."""

    latest: Scrape
    before: Scrape | None = None

    @property
    def seconds(self) -> float:
        """Return the time between them."""
        return self.latest.time - self.before.time if self.before else 0.0

    def advanced(self, scrape: Scrape) -> "ScrapePair":
        """Return the pair with a newer scrape; an older one, or the same again, changes nothing."""
        return ScrapePair(scrape, self.latest) if scrape.time > self.latest.time else self

    def increase(self, names: Iterable[str], where: Labels = frozenset()) -> float | None:
        """Return by how much a counter rose; None: not known."""
        if self.before is None:
            return None
        for name in names:
            found = dict(self.latest.series(name, where))
            if found:
                old = dict(self.before.series(name, where))
                return sum(_rise(old.get(labels, 0.0), now) for labels, now in found.items())
        return None

    def by_label(self, name: str, label: str, where: Labels = frozenset()) -> dict[str, float]:
        """Return the increase of each series of a name, by the value of a label."""
        if self.before is None:
            return {}
        old = dict(self.before.series(name, where))
        rises: dict[str, float] = {}
        for labels, now in self.latest.series(name, where):
            value = dict(labels).get(label, "")
            rises[value] = rises.get(value, 0.0) + _rise(old.get(labels, 0.0), now)
        return rises


@dataclass(frozen=True)
class Scrapes:
    """The two latest scrapes of every target."""

    pairs: Mapping[str, ScrapePair] = field(default_factory=dict)

    def advanced(self, found: Mapping[str, Scrape], known: frozenset[str]) -> "Scrapes":
        """Return the scrapes with what was just read; targets that are gone are forgotten."""
        pairs = {target: pair for target, pair in self.pairs.items() if target in known}
        for target, scrape in found.items():
            if target in known:
                pair = pairs.get(target)
                pairs[target] = pair.advanced(scrape) if pair else ScrapePair(scrape)
        return replace(self, pairs=pairs)


def _rise(before: float, now: float) -> float:
    if not (_sound(before) and _sound(now)):
        return nan
    return now - before if now >= before else now


def _sound(value: float) -> bool:
    return isfinite(value) and value >= 0


def label(**pairs: str) -> Labels:
    """Return labels to look for."""
    return frozenset(pairs.items())
