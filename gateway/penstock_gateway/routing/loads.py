"""What is told to others of each worker of a fleet."""

from penstock_contract.fleet import Fleet, GatewayWorkers, WorkerLoad
from penstock_gateway.routing.router import Router


def loads_of(fleet: Fleet, router: Router) -> GatewayWorkers:
    """Return what a router has on each worker, and saw of it."""
    found: dict[str, WorkerLoad] = {}
    for worker in fleet.workers:
        tally = router.tally(worker.id)
        found[worker.id] = WorkerLoad(
            state=worker.state,
            in_flight=tally.in_flight,
            outstanding_tokens=tally.outstanding_tokens,
            requests=tally.requests,
            failures=tally.failures,
        )
    return GatewayWorkers(workers=found)
