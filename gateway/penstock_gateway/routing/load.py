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


@dataclass
class _Load:
    waiting: dict[int, int] = field(default_factory=dict)
    """Uncached bytes by ticket, until the first byte of the answer."""
    in_flight: set[int] = field(default_factory=set)
    """Numbers of the tickets that are out; those of an earlier life do not count."""
    breaker: Breaker = field(default_factory=Breaker)


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
        *, tie: float, now: float,
    ) -> list[Choice]:  # fmt: skip
        """Return the workers that may be tried, best first; broken ones only if there is no other.

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
            )
            (healthy if load.breaker.allows(now) else broken).append(candidate)
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

    def ended(self, ticket: Ticket, *, failed_at: float | None = None) -> None:
        """The request is over; `failed_at` says when the worker failed it, if it did."""
        load = self._loads.get(ticket.worker)
        if load is not None:
            load.waiting.pop(ticket.number, None)
            load.in_flight.discard(ticket.number)
            if failed_at is not None:
                load.breaker = load.breaker.failed(failed_at)
