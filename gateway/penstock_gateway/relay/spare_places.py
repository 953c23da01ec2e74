"""How many of a model's places may be taken when a request of a batch is let through.

A share of them is always left free. Where there is an objective for the time between two tokens,
there are no more than leave workers' steps within a share of it, since each sequence makes them
longer for all others. And what the batch service has under way at other gateways, which it tells,
is taken already.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from penstock_contract.fleet import FleetModel, FleetWorker
from penstock_gateway.admission.places import reserved
from penstock_gateway.routing.pace import sequences_within
from penstock_gateway.routing.router import Router

PACE_SHARE: Final = 0.75
"""Of spec.slo.tpot: how long steps may be with what batches fill up. The rest is for prompts, and
for those that come next."""


class SparePlaces:
    """Counts the requests of batches that this process has under way.

    Args:
        router: knows what the workers' steps cost.
        clock: monotonic seconds.
        processes: of this gateway, among which the service's connections are spread evenly.
    """

    def __init__(self, router: Router, clock: Callable[[], float], processes: int) -> None:
        self._router = router
        self._clock = clock
        self._processes = processes
        self._own = Counter[str]()

    def of(
        self, model: FleetModel, workers: list[FleetWorker], capacity: int, name: str, told: str
    ) -> int:
        """Return how many places may be taken when a batch's request is let through.

        Args:
            model: that it is for.
            workers: of the model.
            capacity: places that they have.
            name: by which the request names the model.
            told: how many requests for that name the service has under way, as its header says.
        """
        places = capacity - reserved(capacity)
        if model.tpot is not None:
            loads = self._router.working(workers, self._clock())
            places = min(places, sequences_within(loads, PACE_SHARE * model.tpot))
        under_way = int(told) if told.isdecimal() and len(told) < 10 else 0
        return places - max(0, under_way - 1 - self._own[name] * self._processes)

    def began(self, name: str) -> None:
        """A batch's request has been let in."""
        self._own[name] += 1

    def ended(self, name: str) -> None:
        """It is over."""
        self._own[name] -= 1
        if not self._own[name]:
            del self._own[name]
