"""Lets requests through to a model's workers, as many as those can run; the others wait here.

Waiting at the gateway instead of in a worker's queue keeps the choice of a worker open until one
has room, and lets the order be decided over all of them. With an objective for first tokens there
is room only while one of those that a prompt can go to has nearly computed its own.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import inf

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.first_token import latest_start, overdue
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue
from penstock_gateway.admission.departure_rate import DepartureRate
from penstock_gateway.admission.fair_queue import Entry, FairQueue, Waiting
from penstock_gateway.admission.places import patience_of
from penstock_gateway.admission.processes import per_process
from penstock_gateway.relay.hold import Asked
from penstock_gateway.relay.permit import Permit
from penstock_gateway.routing.destination import Destination

NO_QUEUE = FleetQueue()
"""Of a fleet that says nothing of queues."""
MAX_BYTES = 256 << 20
"""Bytes of bodies that wait for one model."""
LOOK_AGAIN = 0.01
"""Seconds between two looks at whether a worker can take another prompt: nobody tells."""

Capacity = Callable[[FleetModel], int]
"""Returns how many requests the ready workers of a model can run at once."""
Room = Callable[[str, int, int], bool]
"""Returns whether a deployment has room for one more, by its capacity and what runs already."""
WantsPrompt = Callable[[FleetModel, Destination], bool]
"""Returns whether one of a destination's workers has nearly computed the prompts that it has."""
PromptSeconds = Callable[[FleetModel, Destination, int], float]
"""Returns how long a prompt of so many bytes takes by itself."""


def always(_: FleetModel, __: Destination) -> bool:
    """Return that workers may have as many prompts as they can run."""
    return True


def at_once(_: FleetModel, __: Destination, ___: int) -> float:
    """Return what a prompt takes where nobody knows."""
    return 0.0


def room_for_all(_: str, capacity: int, running: int) -> bool:
    """Return whether there is room where no other process sends to the same workers."""
    return running < capacity


@dataclass
class _Gate:
    queue: FairQueue
    running: int = 0
    leaving: int = 0
    """Requests whose turn has come and that no worker has yet."""
    looks_again: bool = False
    """Whether it looks by itself whether there is room again."""
    turns: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    departures: DepartureRate = field(default_factory=DepartureRate)


class Gates:
    """One gate per InferenceDeployment.

    Args:
        capacity: of a model's workers.
        clock: monotonic seconds.
        room: decides who may go.
        processes: that share the places to wait.
        wants_prompt: knows how far the workers are with theirs.
        prompt_seconds: knows how fast they are.
    """

    def __init__(
        self,
        capacity: Capacity,
        clock: Callable[[], float] = time.monotonic,
        room: Room = room_for_all,
        processes: int = 1,
        wants_prompt: WantsPrompt = always,
        prompt_seconds: PromptSeconds = at_once,
    ) -> None:
        self._capacity = capacity
        self._clock = clock
        self._room = room
        self._processes = processes
        self._wants_prompt = wants_prompt
        self._prompt_seconds = prompt_seconds
        self._gates: dict[str, _Gate] = {}
        self._numbers = itertools.count()

    def offer(
        self, model: FleetModel, found: FleetClass, asked: Asked, *, spare: int | None = None
    ) -> Permit:
        """Return a permit for a request of a class; release it when the request is over.

        Args:
            model: that it names.
            found: its class.
            asked: what else there is to know of it.
            spare: so many places may be taken when it comes, and it waits for nothing but a first
                worker; None: it is no batch's.

        Raises:
            ApiError: too many wait already, or nothing is to spare.
        """
        queue = model.queue or NO_QUEUE
        gate = self._gates.get(model.deployment)
        if gate is None:
            gate = self._gates[model.deployment] = _Gate(FairQueue(MAX_BYTES // self._processes))
        gate.queue.max_requests = per_process(queue.max_requests, self._processes)
        number = next(self._numbers)
        capacity = self._capacity(model)
        open_to_it = capacity if spare is None else spare
        before = gate.queue.waiting_in(asked.destination) if spare is None else len(gate.queue)
        if not before and self._lets_through(gate, model, open_to_it, asked.destination):
            gate.running += 1
            return Permit(self, model, number)
        if spare is not None and capacity:
            raise _refusal(gate, "Nothing is to spare for batches now.")
        turn = asyncio.get_running_loop().create_future()
        patience = patience_of(queue, found, cold=not capacity)
        self._wait(gate, self._entry(number, model, found, asked, patience), turn)
        waits_for = asked.destination.name(model.canary)
        return Permit(self, model, number, turn, patience, waits_for)

    def waiting(self, deployment: str) -> int:
        """Return how many requests wait."""
        gate = self._gates.get(deployment)
        return len(gate.queue) if gate else 0

    def levels(self) -> dict[str, tuple[int, int]]:
        """Return how many requests run and wait, by deployment."""
        return {name: (gate.running, len(gate.queue)) for name, gate in self._gates.items()}

    def destinations(self, deployment: str) -> dict[Destination, int]:
        """Return how many wait for the same workers."""
        gate = self._gates.get(deployment)
        return gate.queue.lanes if gate else {}

    def shares(self, deployment: str) -> list[Waiting]:
        """Return who waits, the highest priority first."""
        gate = self._gates.get(deployment)
        return gate.queue.shares() if gate else []

    def advance(self, model: FleetModel) -> None:
        """Let through whom there is room for now."""
        gate = self._gates.get(model.deployment)
        while gate is not None and gate.queue:
            if not self._room(model.deployment, self._capacity(model), gate.running):
                return  # whoever makes room tells
            entry = gate.queue.pop(self._clock(), self._open(gate, model, gate.queue.lanes))
            if entry is None:
                return
            gate.running += 1
            gate.leaving += 1
            gate.turns.pop(entry.id).set_result(None)

    def release(self, model: FleetModel, number: int, *, ran: bool) -> None:
        """A request is over, or does not want to wait any longer."""
        gate = self._gates[model.deployment]
        if ran:
            gate.running -= 1
            gate.departures = gate.departures.ended(self._clock())
        else:
            gate.queue.remove(number)
            gate.turns.pop(number, None)
        self.advance(model)

    def left(self, model: FleetModel) -> None:
        """A request that had its turn goes to a worker before anything else happens."""
        gate = self._gates[model.deployment]
        gate.leaving -= 1
        if gate.queue:
            asyncio.get_running_loop().call_soon(self.advance, model)

    def close(self) -> None:
        """Refuse all that wait: the gateway is stopping."""
        for gate in self._gates.values():
            while entry := gate.queue.pop():
                error = ApiError(ErrorCode.SHUTTING_DOWN, "The gateway is stopping.")
                gate.turns.pop(entry.id).set_exception(error)

    def refusal(self, model: FleetModel, why: str) -> ApiError:
        """Return a refusal that says when to come again."""
        return _refusal(self._gates[model.deployment], why)

    def _lets_through(
        self, gate: _Gate, model: FleetModel, capacity: int, destination: Destination
    ) -> bool:
        if not self._room(model.deployment, capacity, gate.running):
            return False
        return bool(self._open(gate, model, (destination,)))

    def _open(
        self, gate: _Gate, model: FleetModel, destinations: Collection[Destination]
    ) -> list[Destination]:
        """Return those whose workers can take another prompt now."""
        if model.ttft is None or not gate.queue.max_requests:
            return [*destinations]  # nothing to be in time for, or no place to wait
        if gate.leaving:
            return []  # it tells, and its prompt counts then
        found = [one for one in destinations if self._wants_prompt(model, one)]
        if len(found) < len(destinations) and not gate.looks_again:
            gate.looks_again = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again, gate, model)
        return found

    def _look_again(self, gate: _Gate, model: FleetModel) -> None:
        gate.looks_again = False
        self.advance(model)

    def _entry(
        self, number: int, model: FleetModel, found: FleetClass, asked: Asked, patience: float
    ) -> Entry:
        now, latest = self._clock(), inf
        if model.ttft is not None:
            own = self._prompt_seconds(model, asked.destination, asked.cost)
            latest = latest_start(now, model.ttft, own)
        return Entry(
            number, asked.cost, found.priority, found.name, found.weight, latest,
            overdue(now, patience), asked.held, asked.destination,
        )  # fmt: skip

    def _wait(self, gate: _Gate, entry: Entry, turn: "asyncio.Future[None]") -> None:
        shed = gate.queue.offer(entry)
        if shed is None:
            raise _refusal(gate, "Too many requests wait already.")
        gate.turns[entry.id] = turn
        for victim in shed:
            why = "Others took the place of this request: they go first, or hold fewer."
            gate.turns.pop(victim.id).set_exception(_refusal(gate, why))


def _refusal(gate: _Gate, why: str) -> ApiError:
    after = gate.departures.wait(len(gate.queue) + 1)
    return ApiError(ErrorCode.NO_CAPACITY, why, retry_after=after)
