"""Which workers serve whole requests, and which compute prompts for others. Pure."""

from collections.abc import Sequence

from penstock_contract.api import Role
from penstock_contract.fleet import FleetWorker


def whole_request_workers(workers: Sequence[FleetWorker]) -> list[FleetWorker]:
    """Return the workers for requests that are not split: prefill workers only if alone."""
    return [worker for worker in workers if worker.role is not Role.PREFILL] or list(workers)


def prefill_workers(workers: Sequence[FleetWorker]) -> list[FleetWorker]:
    """Return the workers that compute prompts for others, if there are others."""
    found = [worker for worker in workers if worker.role is Role.PREFILL]
    return found if len(found) < len(workers) else []
