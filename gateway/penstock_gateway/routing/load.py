"""What the gateway has sent to each worker and not got back: its own view, no scrape involved."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.breaker import Breaker
from penstock_gateway.routing.policy import Candidate, Choice, rank
from penstock_gateway.routing.prefix_index import PrefixIndex, PrefixKey


@dataclass
class Ticket:
    """A request that was given to a worker; hand it back when it ends."""

    worker: str
    waiting_bytes: int
    number: int


@dataclass(frozen=True)
class Tally:
    """What the gateway has on a worker, and what it saw of it since it knows it."""

    in_flight: int = 0
    waiting_bytes: int = 0
    """Uncached prompt bytes of requests that have not answered yet."""
    requests: int = 0
    """Ended requests that the worker was answerable for."""
    failures: int = 0
    """Those that it failed."""


@dataclass
class _Load:
    waiting: dict[int, int] = field(default_factory=dict)
    """Uncached bytes by ticket, until the first byte of the answer."""
    in_flight: set[int] = field(default_factory=set)
    """Numbers of the tickets that are out; those of an earlier life do not count."""
    breaker: Breaker = field(default_factory=Breaker)
    requests: int = 0
    failures: int = 0


class Router:
    """Loads, breakers and the prefix index, brought together for a decision."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._loads: dict[str, _Load] = {}
        self._numbers = itertools.count()

    def keep_only(self, workers: Iterable[str]) -> None:
        """Forget workers that are gone."""
        alive = set(workers)
        for gone in [worker for worker in self._loads if worker not in alive]:
            del self._loads[gone]
            self._index.forget(gone)

    def rank(
        self, workers: Iterable[FleetWorker], keys: list[PrefixKey], prompt_bytes: int,
        *, tie: float, preferred: frozenset[str] | None = None,
    ) -> list[Choice]:  # fmt: skip
        """Return the workers, best first: preferred ones (None: all), others, then broken ones.

        A worker whose breaker is open comes last rather than never: with nothing better at hand, an
        attempt costs less than a refusal.
        """
        matched = self._index.match(keys)
        healthy: list[Candidate] = []
        broken: list[Candidate] = []
        for worker in workers:
            load = self._loads.setdefault(worker.id, _Load())
            candidate = Candidate(
                worker.id,
                len(load.in_flight),
                sum(load.waiting.values()),
                matched.get(worker.id, 0),
                preferred is None or worker.id in preferred,
            )
            (broken if load.breaker.open else healthy).append(candidate)
        return rank(healthy, prompt_bytes, tie) + rank(broken, prompt_bytes, tie)

    def take(self, choice: Choice, keys: list[PrefixKey], prompt_bytes: int) -> Ticket:
        """Record that a request goes to a worker."""
        ticket = Ticket(choice.id, max(0, prompt_bytes - choice.matched_bytes), next(self._numbers))
        load = self._loads.setdefault(choice.id, _Load())
        load.in_flight.add(ticket.number)
        load.waiting[ticket.number] = ticket.waiting_bytes
        self._index.record(keys, choice.id)
        return ticket

    def answered(self, ticket: Ticket) -> None:
        """The first byte came: the prompt is computed, and the worker is alive."""
        load = self._loads.get(ticket.worker)
        if load is not None:
            load.waiting.pop(ticket.number, None)
            load.breaker = load.breaker.succeeded()

    def ended(
        self,
        ticket: Ticket,
        *,
        counts: bool = True,
        failed: bool = False,
        down_at: float | None = None,
    ) -> None:
        """The request is over.

        Args:
            ticket: of the request.
            counts: whether it says anything about the worker; a client that left does not.
            failed: the worker failed it.
            down_at: when it failed so that the worker must be taken for broken.
        """
        load = self._loads.get(ticket.worker)
        if load is None:
            return
        load.waiting.pop(ticket.number, None)
        load.in_flight.discard(ticket.number)
        load.requests += counts
        load.failures += counts and failed
        if down_at is not None:
            load.breaker = load.breaker.failed(down_at)

    def tally(self, worker: str) -> Tally:
        """Return what is known of a worker."""
        load = self._loads.get(worker)
        if load is None:
            return Tally()
        waiting = sum(load.waiting.values())
        return Tally(len(load.in_flight), waiting, load.requests, load.failures)

    def to_probe(self, now: float) -> list[str]:
        """Return the workers that are put aside and should be looked at again."""
        return [worker for worker, load in self._loads.items() if load.breaker.due(now)]

    def probed(self, worker: str, *, well: bool, now: float) -> None:
        """Record what a probe found."""
        load = self._loads.get(worker)
        if load is not None:
            load.breaker = load.breaker.probed() if well else load.breaker.failed(now)
