"""Workers as the protocol knows them: `ip:port`. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from penstock_contract.fleet import FleetWorker

DESTINATION: Final = "x-gateway-destination-endpoint"
"""Header, and key of the metadata, that names the endpoints: the best first, then those to try."""
SERVED: Final = "x-gateway-destination-endpoint-served"
"""Key of the metadata by which the gateway says which of them has answered."""
SUBSET: Final = "x-gateway-destination-endpoint-subset"
"""Key of the metadata by which the gateway says which of them may be chosen."""
NAMESPACE: Final = "envoy.lb"
"""Of the first two in metadata."""
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"


def endpoint(worker: FleetWorker) -> str:
    """Return a worker's `ip:port`, an IPv6 address in brackets."""
    where = worker.url.partition("://")[2].partition("/")[0]
    return where if ":" in where.rpartition("]")[2] else f"{where}:80"


def endpoints(value: Any) -> frozenset[str] | None:
    """Return the endpoints of a subset hint: a list, or text with commas; None: there is none."""
    if value is None:
        return None
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, Iterable):
        return frozenset()
    return frozenset(one.strip() for one in found if isinstance(one, str) and one.strip())


def among(workers: Sequence[FleetWorker], subset: frozenset[str] | None) -> list[FleetWorker]:
    """Return the workers that may be chosen."""
    if subset is None:
        return list(workers)
    return [worker for worker in workers if endpoint(worker) in subset]
