"""Builds Prometheus instruments from the declarations in `penstock_contract.metrics`."""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from penstock_contract.metrics import Kind, Metric

# `_created` series double the size of a scrape, and nothing reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Instruments:
    """The instruments of one process, looked up by their declaration.

    Args:
        registry: where they are registered; one per process (tests make their own).
        metrics: the declarations to build.
    """

    def __init__(self, registry: CollectorRegistry, metrics: Iterable[Metric]) -> None:
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in metrics:
            name, text, labels = metric.name, metric.help, metric.labels
            match metric.kind:
                case Kind.COUNTER:
                    self._counters[name] = Counter(name, text, labels, registry=registry)
                case Kind.GAUGE:
                    self._gauges[name] = Gauge(name, text, labels, registry=registry)
                case Kind.HISTOGRAM:
                    self._histograms[name] = Histogram(
                        name, text, labels, registry=registry, buckets=metric.buckets
                    )

    def counter(self, metric: Metric) -> Counter:
        """Return the counter of a declaration; KeyError when this process does not export it."""
        return self._counters[metric.name]

    def gauge(self, metric: Metric) -> Gauge:
        """Return the gauge of a declaration; KeyError when this process does not export it."""
        return self._gauges[metric.name]

    def histogram(self, metric: Metric) -> Histogram:
        """Return the histogram of a declaration; KeyError when this process does not export it."""
        return self._histograms[metric.name]
