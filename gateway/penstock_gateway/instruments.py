"""Instruments that are plain numbers, made into Prometheus families when they are asked for.

prometheus_client's own instruments lock, check and look up labels on every change: microseconds
each, and a request has a dozen. The gateway has one thread, so adding to a number is enough.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from penstock_contract.metrics import Kind
from penstock_contract.metrics import Metric as Declaration

Series = dict[str, list[tuple[list[str], list[float]]]]
"""By metric: values of labels, with a number, or with a histogram's counts and its sum."""


class Number:
    """A counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        """Add."""
        self.value += by

    def dec(self, by: float = 1.0) -> None:
        """Take away."""
        self.value -= by

    def set(self, value: float) -> None:
        """Replace."""
        self.value = value


class Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Not cumulative; the last one is above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Take an observation in."""
        bucket = 0
        for bound in self._bounds:  # compiled, a third of what bisect costs
            if value <= bound:
                break
            bucket += 1
        self.counts[bucket] += 1
        self.sum += value


class Numbers:
    """A counter or a gauge with labels."""

    def __init__(self, declared: Declaration) -> None:
        self.declared = declared
        self._children: dict[tuple[str, ...], Number] = {}
        if not declared.labels:
            self.labels()

    def labels(self, *values: str) -> Number:
        """Return the number with these label values."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = Number()
        return found

    def set(self, value: float) -> None:
        """Replace the number that has no labels."""
        self.labels().set(value)

    def clear(self) -> None:
        """Forget all label values."""
        self._children.clear()

    def family(self) -> Metric:
        """Return what a scrape sees."""
        counts = self.declared.kind is Kind.COUNTER
        kind = CounterMetricFamily if counts else GaugeMetricFamily
        family = kind(self.declared.name, self.declared.help, labels=self.declared.labels)
        for values, number in self._children.items():
            family.add_metric(values, number.value)
        return family

    def series(self) -> list[tuple[list[str], list[float]]]:
        """Return values of labels with the number."""
        return [(list(values), [number.value]) for values, number in self._children.items()]

    def fill(self, values: list[str], found: list[float]) -> None:
        """Set the number with these label values, as `series` has it."""
        (self.labels(*values).value,) = found


class Histograms:
    """A histogram with labels."""

    def __init__(self, declared: Declaration) -> None:
        self.declared = declared
        self._children: dict[tuple[str, ...], Histogram] = {}
        self._names = [*map(floatToGoString, declared.buckets), "+Inf"]

    def labels(self, *values: str) -> Histogram:
        """Return the histogram with these label values."""
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = Histogram(self.declared.buckets)
        return found

    def family(self) -> Metric:
        """Return what a scrape sees."""
        declared = self.declared
        family = HistogramMetricFamily(declared.name, declared.help, labels=declared.labels)
        for values, child in self._children.items():
            buckets = [*zip(self._names, accumulate(map(float, child.counts)), strict=True)]
            family.add_metric(values, buckets, child.sum)
        return family

    def series(self) -> list[tuple[list[str], list[float]]]:
        """Return values of labels with the counts and the sum."""
        return [
            (list(values), [*map(float, child.counts), child.sum])
            for values, child in self._children.items()
        ]

    def fill(self, values: list[str], found: list[float]) -> None:
        """Set the histogram with these label values, as `series` has it."""
        child = self.labels(*values)
        child.counts, child.sum = [int(count) for count in found[:-1]], found[-1]


class Instruments(Collector):
    """The metrics of this process, looked up by their declaration.

    Args:
        registry: what is scraped.
        metrics: the declarations.
    """

    def __init__(self, registry: CollectorRegistry, metrics: Iterable[Declaration]) -> None:
        self._numbers: dict[str, Numbers] = {}
        self._histograms: dict[str, Histograms] = {}
        for metric in metrics:
            if metric.kind is Kind.HISTOGRAM:
                self._histograms[metric.name] = Histograms(metric)
            else:
                self._numbers[metric.name] = Numbers(metric)
        registry.register(self)

    def counter(self, metric: Declaration) -> Numbers:
        """Return a counter; KeyError when this process does not export it."""
        return self._numbers[metric.name]

    def gauge(self, metric: Declaration) -> Numbers:
        """Return a gauge; KeyError when this process does not export it."""
        return self._numbers[metric.name]

    def histogram(self, metric: Declaration) -> Histograms:
        """Return a histogram; KeyError when this process does not export it."""
        return self._histograms[metric.name]

    def collect(self) -> Iterator[Metric]:
        """Yield what a scrape sees."""
        for numbers in self._numbers.values():
            yield numbers.family()
        for histograms in self._histograms.values():
            yield histograms.family()

    def series(self) -> Series:
        """Return all of it as plain values."""
        numbers = {name: found.series() for name, found in self._numbers.items()}
        return numbers | {name: found.series() for name, found in self._histograms.items()}

    def fill(self, series: Series) -> None:
        """Set everything to what `series` has returned, here or elsewhere."""
        for name, found in series.items():
            for labels, values in found:
                if name in self._numbers:
                    self._numbers[name].fill(labels, values)
                else:
                    self._histograms[name].fill(labels, values)
