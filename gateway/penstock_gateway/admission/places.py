"""How many places batches may have, and how long a request may wait for one. Pure."""

from penstock_contract.fleet import FleetClass, FleetQueue

SPARE_RESERVE = 4
"""One place in so many is not for batches."""


def reserved(capacity: int) -> int:
    """Return how many of the requests that workers can run are never those of batches.

    So that what comes next finds a place at once, and need not wait for a batch's answer to end.
    """
    return min(-(-capacity // SPARE_RESERVE), capacity - 1) if capacity else 0


def patience_of(queue: FleetQueue, found: FleetClass, *, cold: bool) -> float:
    """Return how many seconds a request may wait; longer while there is no worker at all."""
    patience = queue.timeout if found.timeout is None else found.timeout
    return max(patience, queue.cold_start_timeout) if cold else patience
