"""The operator's metrics, as the contract declares them."""

from prometheus_client import CollectorRegistry

from penstock_contract.instruments import Instruments
from penstock_contract.metrics import operator as declared


class OperatorMetrics:
    """What the operator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        made = Instruments(registry, declared.OPERATOR)
        self._calls = made.counter(declared.OPERATOR_API_CALLS)
        self._reconciles = made.counter(declared.OPERATOR_RECONCILES)
        self._seconds = made.histogram(declared.OPERATOR_RECONCILE_SECONDS)
        self._queue = made.gauge(declared.OPERATOR_QUEUE)
        self._leader = made.gauge(declared.OPERATOR_LEADER)

    def called(self, verb: str, code: int) -> None:
        """Count a call to the API server; code 0: it gave no answer."""
        self._calls.labels(verb=verb, code=str(code)).inc()

    def reconciled(self, seconds: float, *, well: bool) -> None:
        """Count a reconcile."""
        self._reconciles.labels(result="success" if well else "error").inc()
        self._seconds.observe(seconds)

    def waiting(self, count: int) -> None:
        """Set how many objects wait to be reconciled."""
        self._queue.set(count)

    def leads(self, *, leading: bool) -> None:
        """Set whether this replica acts."""
        self._leader.set(leading)
