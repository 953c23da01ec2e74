"""For whom a prompt waits, and whether they can take it: see docs/queueing.md."""

from collections.abc import Callable

from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.first_token import backlog
from penstock_contract.fleet import FleetModel
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.routing.canary import on_trial, session_key
from penstock_gateway.routing.destination import (
    ANYWHERE,
    PREFILL,
    TRIAL,
    Destination,
    destined,
    is_split,
)
from penstock_gateway.routing.room import any_idle, fastest, prompt_seconds, room_in
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.routing.worker_load import Load


class Asked:
    """What a request is let through by.

    Args:
        cost: bytes of what is to be computed for it.
        held: bytes that are kept while it waits.
        destination: where its prompt can go.
    """

    def __init__(self, cost: int, held: int = 0, destination: Destination = ANYWHERE) -> None:
        self.cost = cost
        self.held = held
        self.destination = destination


class Hold:
    """Answers for all models of a gateway.

    Args:
        router: knows what workers have.
        directory: returns the present fleet.
        clock: monotonic seconds.
    """

    def __init__(
        self, router: Router, directory: Callable[[], Directory], clock: Callable[[], float]
    ) -> None:
        self._router = router
        self._directory = directory
        self._clock = clock

    def destination(
        self, model: FleetModel, prompt: Prompt, content: bytes, *, splits: bool
    ) -> Destination:
        """Return where a prompt can go.

        Args:
            model: that it is for.
            prompt: what routing knows of it.
            content: what stands for it where it has no prefixes.
            splits: it may be computed by one worker and answered by another.
        """
        if model.ttft is None:
            return ANYWHERE
        directory, canary = self._directory(), model.canary
        if splits and directory.for_prompts(model):
            uncached = self._router.uncached(directory.for_whole_requests(model), prompt)
            if is_split(model.disaggregation, uncached):
                return PREFILL
        if canary is None:
            return ANYWHERE
        session = session_key(prompt.session, prompt.keys, content)
        return TRIAL if on_trial(canary, session) else ANYWHERE

    def wants_prompt(self, model: FleetModel, destination: Destination) -> bool:
        """Return whether one of those whom such prompts wait for has nearly computed its own."""
        return self.room_in(model, destination) <= 0.0

    def room_in(self, model: FleetModel, destination: Destination) -> float:
        """Return in about how many seconds that will be so; 0: it is."""
        if model.ttft is None:
            return 0.0
        found = room_in(self._working(model, destination), backlog(model.ttft))
        if found > 0.0 and destination.split and self._computed_here(model):
            return 0.0
        return found

    def prompt_seconds(self, model: FleetModel, destination: Destination, size: int) -> float:
        """Return how long a prompt of so many bytes takes the fastest of them by itself."""
        return prompt_seconds(self._working(model, destination), size)

    def token_seconds(self, model: FleetModel) -> float:
        """Return how long a prompt token takes the fastest worker of all; 0: not known."""
        return fastest(self._router.working(self._directory().ready(model), self._clock()))

    def _working(self, model: FleetModel, destination: Destination) -> list[Load]:
        """Return what is known of those that get such prompts: others where none of them works."""
        directory, now = self._directory(), self._clock()
        whole, prefill = directory.for_whole_requests(model), directory.for_prompts(model)
        own = destined(destination, model.canary, whole, prefill)
        return self._router.working(own, now) or self._router.working(whole, now)

    def _computed_here(self, model: FleetModel) -> bool:
        """Return whether some decode worker has nothing to do: it computes a prompt itself."""
        if model.disaggregation.mode is not DisaggregationMode.AUTO:
            return False
        whole = self._directory().for_whole_requests(model)
        return any_idle(self._router.working(whole, self._clock()))
