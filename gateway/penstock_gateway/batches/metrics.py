"""Keeps the metrics of the service, as declared in the contract."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from penstock_contract.instruments import Instruments
from penstock_contract.metrics import batches as declared
from penstock_gateway.batches.batch import ACTIVE, ENDED, Batch, Status

OUTCOMES = ("completed", "failed", "expired", "cancelled")


class BatchMetrics:
    """All instruments of a batch service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._instruments = Instruments(registry, declared.BATCH)
        for outcome in OUTCOMES:  # what has not happened yet is told as 0
            self._instruments.counter(declared.BATCH_REQUESTS).labels(outcome)
        for status in ENDED:
            self._instruments.counter(declared.BATCH_ENDED).labels(status)

    def batches(self, active: Iterable[Batch]) -> None:
        """These have not ended."""
        found = Counter(batch.status for batch in active)
        for status in ACTIVE:
            self._instruments.gauge(declared.BATCHES).labels(status).set(found[status])

    def stored(self, files: int, size: int) -> None:
        """So many files are there, of so many bytes."""
        self._instruments.gauge(declared.BATCH_FILES).set(files)
        self._instruments.gauge(declared.BATCH_STORED).set(size)

    def ended(self, status: Status) -> None:
        """A batch has ended."""
        self._instruments.counter(declared.BATCH_ENDED).labels(status).inc()

    def requests(self, outcome: str, count: int = 1) -> None:
        """Requests have got their lines."""
        self._instruments.counter(declared.BATCH_REQUESTS).labels(outcome).inc(count)

    def in_flight(self, change: int) -> None:
        """Requests have been sent, or answered."""
        self._instruments.gauge(declared.BATCH_IN_FLIGHT).inc(change)

    def window(self, change: float) -> None:
        """A batch would have more in flight, or less."""
        self._instruments.gauge(declared.BATCH_WINDOW).inc(change)

    def backed_off(self, status: int) -> None:
        """A batch has halved what it has in flight."""
        self._instruments.counter(declared.BATCH_BACKOFFS).labels(str(status)).inc()
