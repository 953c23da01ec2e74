"""Lets requests through to a model's workers, as many as those can run; the others wait here.

Waiting at the gateway instead of in a worker's queue keeps the choice of a worker open until one
has room, and lets the order be decided over all of them. With an objective for first tokens there
is room only while some worker has nearly computed the prompts that it was given.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.first_token import latest_start, overdue
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue
from penstock_gateway.admission.departure_rate import DepartureRate
from penstock_gateway.admission.fair_queue import Entry, FairQueue, Waiting
from penstock_gateway.admission.processes import per_process

NO_QUEUE = FleetQueue()
"""Of a fleet that says nothing of queues."""
MAX_BYTES = 256 << 20
"""Bytes of prompts that wait for one model."""
LOOK_AGAIN = 0.01
"""Seconds between two looks at whether a worker can take another prompt: nobody tells."""
SPARE_RESERVE = 4
"""One place in so many is not for batches."""

Capacity = Callable[[FleetModel], int]
"""Returns how many requests the ready workers of a model can run at once."""
Room = Callable[[str, int, int], bool]
"""Returns whether a deployment has room for one more, by its capacity and what runs already."""
WantsPrompt = Callable[[FleetModel], bool]
"""Returns whether some worker of a model has nearly computed the prompts that it has."""
PromptSeconds = Callable[[FleetModel, int], float]
"""Returns how long a prompt of so many bytes takes by itself."""


def always(_: FleetModel) -> bool:
    """Return that workers may have as many prompts as they can run."""
    return True


def at_once(_: FleetModel, __: int) -> float:
    """Return what a prompt takes where nobody knows."""
    return 0.0


def room_for_all(_: str, capacity: int, running: int) -> bool:
    """Return whether there is room where no other process sends to the same workers."""
    return running < capacity


def reserved(capacity: int) -> int:
    """Return how many of the requests that workers can run are never those of batches.

    So that what comes next finds a place at once, and need not wait for a batch's answer to end.
    """
    return min(-(-capacity // SPARE_RESERVE), capacity - 1) if capacity else 0


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
        self, model: FleetModel, found: FleetClass, prompt_bytes: int, *, spare: bool = False
    ) -> "Permit":
        """Return a permit for a request of a class; release it when the request is over.

        Args:
            model: that it names.
            found: its class.
            prompt_bytes: of its prompt.
            spare: it may have what is to spare, and waits for nothing but a first worker.

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
        open_to_it = capacity - reserved(capacity) if spare else capacity
        if not gate.queue and self._lets_through(gate, model, open_to_it):
            gate.running += 1
            return Permit(self, model, number)
        if spare and capacity:
            raise _refusal(gate, "Nothing is to spare for batches now.")
        turn = asyncio.get_running_loop().create_future()
        patience = _patience(queue, found, cold=not capacity)
        latest, last = self._latest(model, prompt_bytes), overdue(self._clock(), patience)
        entry = Entry(number, prompt_bytes, found.priority, found.name, found.weight, latest, last)
        self._wait(gate, entry, turn)
        return Permit(self, model, number, turn, patience)

    def waiting(self, deployment: str) -> int:
        """Return how many requests wait."""
        gate = self._gates.get(deployment)
        return len(gate.queue) if gate else 0

    def levels(self) -> dict[str, tuple[int, int]]:
        """Return how many requests run and wait, by deployment."""
        return {name: (gate.running, len(gate.queue)) for name, gate in self._gates.items()}

    def shares(self, deployment: str) -> list[Waiting]:
        """Return who waits, the highest priority first."""
        gate = self._gates.get(deployment)
        return gate.queue.shares() if gate else []

    def advance(self, model: FleetModel) -> None:
        """Let through whom there is room for now."""
        gate = self._gates.get(model.deployment)
        while gate is not None and gate.queue:
            if not self._lets_through(gate, model, self._capacity(model)):
                return
            entry = gate.queue.pop(self._clock())
            if entry is not None:
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

    def _lets_through(self, gate: _Gate, model: FleetModel, capacity: int) -> bool:
        if not self._room(model.deployment, capacity, gate.running):
            return False  # whoever makes room tells
        if model.ttft is None or not gate.queue.max_requests:
            return True  # nothing to be in time for, or no place to wait
        if gate.leaving:
            return False  # it tells, and its prompt counts then
        if self._wants_prompt(model):
            return True
        if not gate.looks_again:
            gate.looks_again = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_again, gate, model)
        return False

    def _look_again(self, gate: _Gate, model: FleetModel) -> None:
        gate.looks_again = False
        self.advance(model)

    def _latest(self, model: FleetModel, size: int) -> float:
        if model.ttft is None:
            return inf
        return latest_start(self._clock(), model.ttft, self._prompt_seconds(model, size))

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


class Permit:
    """A request's permission to run, now or when it is its turn.

    Args:
        gates: all of them.
        model: whose gate it is.
        number: of the request.
        turn: comes when there is room; None: there was at once.
        patience: seconds to wait for that.
    """

    def __init__(
        self,
        gates: Gates,
        model: FleetModel,
        number: int,
        turn: "asyncio.Future[None] | None" = None,
        patience: float = 0.0,
    ) -> None:
        self._gates = gates
        self._model = model
        self._number = number
        self._turn = turn
        self._patience = patience
        self._leaving = turn is not None

    async def granted(self) -> None:
        """Return when it is the request's turn.

        Raises:
            ApiError: it was shed, or waited for too long.
        """
        if self._turn is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.shield(self._turn)
        except TimeoutError as error:
            why = f"No worker of {self._model.name!r} had room within {self._patience:g} s."
            raise self._gates.refusal(self._model, why) from error
        self._leave()

    def _leave(self) -> None:
        if self._leaving:
            self._leaving = False
            self._gates.left(self._model)

    def release(self) -> None:
        """Give it back, whatever became of the request."""
        turn = self._turn
        ran = turn is None or (turn.done() and turn.exception() is None)
        if ran:
            self._leave()
        self._gates.release(self._model, self._number, ran=ran)


def _patience(queue: FleetQueue, found: FleetClass, *, cold: bool) -> float:
    """Return how many seconds a request may wait; longer while there is no worker at all."""
    patience = queue.timeout if found.timeout is None else found.timeout
    return max(patience, queue.cold_start_timeout) if cold else patience
