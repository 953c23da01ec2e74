"""Loads over any course of events; test_routing.py has the single decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_contract.api import Role
from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.breaker import FIRST_PAUSE
from penstock_gateway.routing.policy import NEAR, Choice
from penstock_gateway.routing.prefix_index import PrefixIndex, prefix_keys
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import Speed
from penstock_gateway.routing.ticket import Prompt, Ticket


def worker(name: str) -> FleetWorker:
    return FleetWorker(id=name, url=f"http://{name}", deployment="d", pool="p", role=Role.UNIFIED)


FLEET = [worker("a"), worker("b"), worker("c")]
NOW = 100.0


def prompt_of(text: bytes) -> Prompt:
    return Prompt(prefix_keys(text), len(text))


def ranked(router: Router, workers: list[FleetWorker]) -> list[Choice]:
    return router.rank(workers, Prompt(), tie=0.0, now=NOW)


def cost(router: Router, name: str) -> float:
    return ranked(router, [worker(name)])[0].cost


def send(router: Router, text: bytes = b"") -> Ticket:
    prompt = prompt_of(text)
    return router.take(router.rank(FLEET, prompt, tie=0.0, now=NOW)[0], prompt, NOW)


def test_requests_spread_over_idle_workers() -> None:
    router = Router(PrefixIndex())
    assert {send(router).worker for _ in FLEET} == {"a", "b", "c"}


def test_a_conversation_returns_to_the_worker_that_knows_it() -> None:
    router, prompt = Router(PrefixIndex()), b"system prompt " * 1000
    first = send(router, prompt)
    router.answered(first, NOW)
    router.ended(first)
    assert send(router, prompt + b"next turn").worker == first.worker


def test_a_worker_that_was_away_for_a_moment_has_no_negative_load() -> None:
    router = Router(PrefixIndex())
    ticket = send(router)
    router.keep_only([])
    fresh = cost(router, ticket.worker)
    router.ended(ticket)
    assert cost(router, ticket.worker) == pytest.approx(fresh)
    assert router.tally(ticket.worker).in_flight == 0


@given(st.integers(2, 40))
def test_one_accident_is_one_failure_however_many_streams_it_broke(streams: int) -> None:
    router, only = Router(PrefixIndex()), [worker("a"), worker("b")]
    choice = ranked(router, only)[0]
    tickets = [router.take(choice, Prompt(), NOW) for _ in range(streams)]
    for ticket in tickets:
        router.ended(ticket, failed=True, down_at=5.0)
    # One failure means the shortest pause.
    assert router.to_probe(5.0 + FIRST_PAUSE) == [choice.id]
    router.probed(choice.id, well=True, now=6.0)
    assert cost(router, choice.id) == pytest.approx(cost(router, "b"), abs=NEAR)
    firsts = {router.rank(only, Prompt(), tie=tie, now=NOW)[0].id for tie in (0.0, 0.9)}
    assert choice.id in firsts  # it is chosen by chance again


class Loads(RuleBasedStateMachine):
    """On a steady fleet, loads are exactly the tickets that are out."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router(PrefixIndex())
        self.out: list[tuple[Ticket, bool]] = []

    @rule(size=st.integers(0, 5000))
    def take(self, size: int) -> None:
        self.out.append((send(self.router, bytes(size)), False))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.out) - 1))
        self.router.answered(self.out[number][0], NOW)
        self.out[number] = (self.out[number][0], True)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.router.ended(ticket)

    @invariant()
    def loads_add_up(self) -> None:
        for one in FLEET:
            mine = [(ticket, heard) for ticket, heard in self.out if ticket.worker == one.id]
            waiting = sum(ticket.choice.uncached for ticket, heard in mine if not heard)
            tally = self.router.tally(one.id)
            assert (tally.in_flight, tally.outstanding_tokens) == (len(mine), waiting)


TestLoads = Loads.TestCase


def test_a_worker_wants_prompts_until_it_has_enough_of_them() -> None:
    router, long = Router(PrefixIndex()), b"x" * 20_000
    only = [worker("a")]
    router.profile("a", Speed(token=1e-4), None)

    def give() -> Ticket:
        prompt = Prompt(size=len(long))
        return router.take(router.rank(only, prompt, tie=0.0, now=NOW)[0], prompt, NOW)

    assert router.wants_prompt(only, 0.25, NOW), "nothing is known of it"
    first = give()
    assert router.wants_prompt(only, 0.25, NOW), "one prompt is too few, however long"
    second = give()
    assert not router.wants_prompt(only, 0.25, NOW)
    assert router.wants_prompt(only, 30.0, NOW)
    assert router.wants_prompt(FLEET, 0.25, NOW), "others are free"
    router.answered(first, NOW + 0.5)
    assert router.wants_prompt(only, 0.25, NOW)
    third = give()
    assert not router.wants_prompt(only, 0.25, NOW)
    router.ended(second, failed=True, down_at=NOW)
    give()
    assert router.wants_prompt(only, 0.25, NOW), "nobody waits for a worker that is down"
    assert router.prompt_seconds(only, len(long)) > 0
    assert router.prompt_seconds([], len(long)) == 0
    router.ended(third)


def test_a_worker_that_tells_nothing_of_its_speed_gets_all_it_can_run() -> None:
    router = Router(PrefixIndex())
    prompt = Prompt(size=1_000_000)
    for _ in range(5):
        ticket = router.take(router.rank(FLEET[:1], prompt, tie=0.0, now=NOW)[0], prompt, NOW)
    router.answered(ticket, NOW + 60.0)
    assert router.wants_prompt(FLEET[:1], 0.25, NOW)


def test_a_worker_that_decodes_much_gets_as_many_prompts_as_before() -> None:
    router = Router(PrefixIndex())
    router.profile("a", Speed(token=1e-5), None)
    prompt = Prompt(size=400)
    tickets = [
        router.take(router.rank(FLEET[:1], prompt, tie=0.0, now=NOW)[0], prompt, NOW)
        for _ in range(50)
    ]
    for ticket in tickets[:30]:
        router.answered(ticket, NOW + 5.0)  # long after what their prompts cost
    assert router.wants_prompt(FLEET[:1], 0.25, NOW)
