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
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.room import prompt_seconds, room_in
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


def wants_prompt(router: Router, workers: list[FleetWorker], ahead: float) -> bool:
    return room_in(router.working(workers, NOW), ahead) <= 0.0


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

    assert wants_prompt(router, only, 0.25), "nothing is known of it"
    first = give()
    assert wants_prompt(router, only, 0.25), "one prompt is too few, however long"
    second = give()
    assert not wants_prompt(router, only, 0.25)
    assert wants_prompt(router, only, 30.0)
    assert wants_prompt(router, FLEET, 0.25), "others are free"
    router.answered(first, NOW + 0.5)
    assert wants_prompt(router, only, 0.25)
    third = give()
    assert not wants_prompt(router, only, 0.25)
    router.ended(second, failed=True, down_at=NOW)
    give()
    assert wants_prompt(router, only, 0.25), "nobody waits for a worker that is down"
    router.ended(third)


def test_a_worker_that_tells_nothing_of_its_speed_gets_all_it_can_run() -> None:
    router = Router(PrefixIndex())
    prompt = Prompt(size=1_000_000)
    for _ in range(5):
        ticket = router.take(router.rank(FLEET[:1], prompt, tie=0.0, now=NOW)[0], prompt, NOW)
    router.answered(ticket, NOW + 60.0)
    assert wants_prompt(router, FLEET[:1], 0.25)


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
    assert wants_prompt(router, FLEET[:1], 0.25)


def test_a_prompt_is_late_when_the_fastest_worker_could_not_be_in_time_any_more() -> None:
    router, size = Router(PrefixIndex()), 40_000
    for name, token in (("a", 1e-3), ("b", 1e-4)):
        router.profile(name, Speed(token=token), None)

    def seconds(workers: list[FleetWorker]) -> float:
        return prompt_seconds(router.working(workers, NOW), size)

    assert seconds(FLEET) == seconds(FLEET[1:]) == pytest.approx(1.0)
    assert seconds(FLEET[:1]) == pytest.approx(10.0)
    assert seconds(FLEET[2:]) == seconds([]) == 0.0, "nobody knows"
    router.ended(give(router, FLEET[1]), failed=True, down_at=NOW)
    assert seconds(FLEET) == pytest.approx(10.0), "nobody goes to one that is down"


def give(
    router: Router, to: FleetWorker, size: int = 20_000, *, streamed: bool = True, at: float = NOW
) -> Ticket:
    prompt = Prompt(size=size, streamed=streamed)
    return router.take(router.rank([to], prompt, tie=0.0, now=at)[0], prompt, at)


def outstanding(router: Router, now: float = NOW) -> int:
    router.working(FLEET[:1], now)
    return router.tally("a").outstanding_tokens


def test_a_prompt_whose_first_token_is_unseen_is_computed_when_a_later_one_is() -> None:
    router = Router(PrefixIndex())
    router.profile("a", Speed(token=1e-3), None)
    give(router, FLEET[0], streamed=False)
    later, last = give(router, FLEET[0]), give(router, FLEET[0], streamed=False)
    router.answered(later, NOW + 1.0)
    assert outstanding(router) == last.choice.uncached


def test_an_unseen_prompt_does_not_leave_before_those_that_a_worker_got_earlier() -> None:
    router = Router(PrefixIndex())
    router.profile("a", Speed(token=1e-4), None)
    first, unseen = give(router, FLEET[0]), give(router, FLEET[0], streamed=False)
    long_after = NOW + 100 * unseen.choice.ttft
    assert outstanding(router, long_after) == 2 * unseen.choice.uncached
    router.ended(first)  # its client has gone
    assert outstanding(router, long_after + 1.0) == 0


def test_what_a_worker_tells_of_unseen_first_tokens_keeps_the_account_right() -> None:
    """It takes four times as long as it said: what others decode lies in between."""
    router, slow = Router(PrefixIndex()), 4.0
    router.profile("a", Speed(start=0.0, token=1e-4), None)
    now = NOW
    for _ in range(60):
        ticket = give(router, FLEET[0], streamed=False, at=now)
        now += slow * ticket.choice.uncached * 1e-4
        router.answered(ticket, now, PromptUsage(5000, 0, first_token=now - ticket.sent))
        router.ended(ticket)
    tickets = [give(router, FLEET[0], streamed=False, at=now) for _ in range(4)]
    done = sum(ticket.choice.uncached for ticket in tickets[:2]) * 1e-4 * slow
    left = outstanding(router, now + done)
    assert left >= sum(ticket.choice.uncached for ticket in tickets[2:])


def test_a_worker_that_pulls_the_prompts_of_others_computes_none() -> None:
    router = Router(PrefixIndex())
    router.profile("a", Speed(token=1e-3), None)
    prompt = Prompt(size=40_000)
    for _ in range(3):
        choice = router.rank(FLEET[:1], prompt, tie=0.0, now=NOW)[0]
        router.take(choice, prompt, NOW, pulled=True)
    assert router.tally("a").in_flight == 3
    assert outstanding(router) == 0
    assert wants_prompt(router, FLEET[:1], 0.25)


def test_an_answer_that_goes_on_teaches_nothing_of_what_prompts_cost() -> None:
    """It is computed together with the prompt, and nobody has counted its tokens."""
    learned = []
    for resumed in (False, True):
        router = Router(PrefixIndex())
        for _ in range(30):
            ticket = give(router, FLEET[0], at=NOW)
            ticket.resumed = resumed
            router.answered(ticket, NOW + 60.0)
            router.ended(ticket)
        learned.append(router.rank(FLEET[:1], Prompt(size=4000), tie=0.0, now=NOW)[0].ttft > 10.0)
    assert learned == [True, False]
