"""What processes of a gateway make of what they tell each other; without any process."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api import Role
from penstock_contract.api.tenant import Limits
from penstock_contract.api_keys import hash_of
from penstock_contract.fleet import FleetWorker, WorkerLoad, WorkerState
from penstock_contract.metrics import gateway as declared
from penstock_gateway.admission.processes import Level, ProcessIndex, has_room, per_process
from penstock_gateway.routing.prefix_index import PrefixIndex, prefix_keys
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.room import room_in
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import Speed
from penstock_gateway.routing.ticket import Prompt, Ticket
from penstock_gateway.siblings.change_log import ChangeLog
from penstock_gateway.siblings.frames import Frames, frame
from penstock_gateway.siblings.link import reach
from penstock_gateway.siblings.quarantine import SharedQuarantine
from penstock_gateway.siblings.router import SharedRouter
from penstock_gateway.siblings.tenancy import SharedTenancy
from penstock_gateway.siblings.totals import added, counted, loads
from penstock_gateway.tenants.meter import LimitReached
from penstock_gateway.tenants.registry import TenantRegistry
from penstock_gateway.tenants.tenant import Tenant

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.floats(0, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
messages = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)


@given(messages, st.randoms())
def test_messages_come_out_as_they_went_in_however_the_bytes_come(
    sent: list[dict[str, Any]], chance: random.Random
) -> None:
    data, frames, found = b"".join(map(frame, sent)), Frames(), []
    while data:
        size = chance.randint(1, len(data))
        found += frames.feed(data[:size])
        data = data[size:]
    assert found == sent


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02{]"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|character|unexpected"):
        Frames().feed(data)


def test_what_is_said_to_a_sibling_that_has_just_ended_is_lost_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop refuses to write then; whoever tells the others now and then must not end by it."""

    monkeypatch.chdir(tmp_path)  # a socket's path must be short

    async def scenario() -> None:
        accepted: asyncio.Queue[Any] = asyncio.Queue()

        class Ends(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.put_nowait(transport)

        server = await asyncio.get_running_loop().create_unix_server(Ends, "sibling")
        sender = await reach("sibling")
        (await accepted.get()).abort()
        await sender.lost
        sender.say(frame({"update": {}}))
        server.close()

    uvloop.run(scenario())


levels = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=6)


def who_has_room(found: list[tuple[int, int]], capacity: int, turn: int) -> list[bool]:
    told = {number: Level(*level) for number, level in enumerate(found)}
    return [
        has_room(
            ProcessIndex(number, len(found)),
            capacity,
            level.running,
            {other: its for other, its in told.items() if other != number},
            turn,
        )
        for number, level in told.items()
    ]


@given(levels, st.integers(0, 60), st.integers(0, 10))
def test_room_is_never_left_while_somebody_waits_and_never_given_twice(
    found: list[tuple[int, int]], capacity: int, turn: int
) -> None:
    room, running = who_has_room(found, capacity, turn), sum(level[0] for level in found)
    if running >= capacity:
        assert not any(room)
    elif any(waiting for _, waiting in found):
        assert any(has for has, (_, waiting) in zip(room, found, strict=True) if waiting)
    else:
        assert all(room)


def test_a_process_that_keeps_all_places_leaves_the_next_one_to_who_waits() -> None:
    assert who_has_room([(9, 50), (0, 1)], capacity=10, turn=0) == [False, True]
    assert who_has_room([(9, 50), (0, 0)], capacity=10, turn=0) == [True, True]


def test_a_single_place_is_everyones_in_turn() -> None:
    both = [(0, 5), (0, 5)]
    assert [who_has_room(both, capacity=1, turn=turn) for turn in (0, 1)] == [
        [True, False],
        [False, True],
    ]


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_parts_make_the_whole(whole: int, processes: int) -> None:
    assert whole <= per_process(whole, processes) * processes < whole + processes


numbers = st.integers(0, 1000).map(float)
series = st.dictionaries(
    st.sampled_from([declared.GATEWAY_ARRIVALS.name, declared.GATEWAY_IN_FLIGHT.name]),
    st.dictionaries(st.sampled_from("abc"), numbers).map(
        lambda found: [([label], [number]) for label, number in found.items()]
    ),
)


def total(found: Mapping[str, list[tuple[list[str], list[float]]]], name: str) -> float:
    return sum(values[0] for _, values in found.get(name, []))


@given(st.lists(series, max_size=5))
def test_what_processes_count_adds_up_and_outlives_them(parts: list[Any]) -> None:
    for metric in (declared.GATEWAY_ARRIVALS.name, declared.GATEWAY_IN_FLIGHT.name):
        assert total(added(parts), metric) == sum(total(found, metric) for found in parts)
    arrivals = declared.GATEWAY_ARRIVALS.name
    ended = added([*parts[1:], *map(counted, parts[:1])])
    assert total(ended, arrivals) == total(added(parts), arrivals)
    levels = [total(found, declared.GATEWAY_IN_FLIGHT.name) for found in parts[1:]]
    assert total(ended, declared.GATEWAY_IN_FLIGHT.name) == sum(levels)


def test_what_all_processes_see_alike_is_not_added() -> None:
    name = declared.GATEWAY_TENANTS.name
    assert added([{name: [([], [3.0])]}, {name: [([], [3.0])]}]) == {name: [([], [3.0])]}


def test_a_worker_drains_when_every_process_knows_it() -> None:
    ready = WorkerLoad(state=WorkerState.READY, in_flight=1, requests=5)
    draining = WorkerLoad(state=WorkerState.DRAINING, in_flight=2, requests=7, failures=1)
    assert loads([{"w": ready}, {"w": draining}])["w"] == WorkerLoad(
        state=WorkerState.READY, in_flight=3, requests=12, failures=1
    )
    assert loads([{"w": draining}, {"w": draining}])["w"].state is WorkerState.DRAINING


def test_a_process_that_has_ended_has_nothing_on_a_worker_but_its_counts() -> None:
    draining = WorkerLoad(state=WorkerState.DRAINING, in_flight=2, requests=7, failures=1)
    ended = WorkerLoad(state=WorkerState.READY, in_flight=9, requests=3, failures=2)
    assert loads([{"w": draining}], [{"w": ended, "gone": ended}]) == {
        "w": WorkerLoad(state=WorkerState.DRAINING, in_flight=2, requests=10, failures=3)
    }


NOW = 100.0
FLEET = [
    FleetWorker(id=name, url=f"http://{name}", deployment="d", pool="p", role=Role.UNIFIED)
    for name in ("a", "b", "c", "d")
]


class Routers:
    """Routers that tell each other everything at once."""

    def __init__(self, count: int) -> None:
        self.change_logs = [ChangeLog(lambda: None) for _ in range(count)]
        self.all = [SharedRouter(PrefixIndex(), changes) for changes in self.change_logs]

    def tell(self) -> None:
        for number, router in enumerate(self.all):
            events, workers = self.change_logs[number].read()
            for other in self.all:
                if other is not router:
                    for event in events:
                        other.hear(event, NOW)
                    other.elsewhere(number, router.loads(workers, NOW), whole=False)


def send(router: Router, prompt: Prompt) -> Ticket:
    return router.take(router.rank(FLEET, prompt, tie=0.5, now=NOW)[0], prompt, NOW)


def prompt_of(text: bytes, session: str | None = None) -> Prompt:
    return Prompt(prefix_keys(text), len(text), session)


def hits(routers: list[SharedRouter] | list[Router], tell: Any) -> int:
    """Return the cached tokens that conversations are expected to find, turn by turn."""
    chance, found = random.Random(1), 0
    texts = [b"%d " % number * 400 for number in range(40)]
    for _ in range(400):
        number = chance.randrange(len(texts))
        texts[number] += b"%d " % chance.randrange(10**6) * 50
        router = chance.choice(routers)
        ticket = send(router, prompt_of(texts[number]))
        router.answered(ticket, NOW, PromptUsage(cached=ticket.choice.matched))
        router.ended(ticket)
        found += ticket.choice.matched
        tell()
    return found


def test_processes_that_tell_each_other_find_as_many_cached_prefixes_as_one() -> None:
    alone = hits([Router(PrefixIndex())], lambda: None)
    three = Routers(3)
    together = hits(three.all, three.tell)
    silent = hits(Routers(3).all, lambda: None)
    assert together >= 0.99 * alone
    assert silent < 0.9 * alone


def test_what_a_sibling_has_on_a_worker_sends_requests_elsewhere_until_it_ends() -> None:
    both = Routers(2)
    one, other = both.all
    ticket = send(one, prompt_of(b"x" * 4000))
    both.tell()
    choices = {c.id: c.candidate for c in other.rank(FLEET, Prompt(), tie=0, now=NOW)}
    loaded = choices[ticket.worker]
    assert (loaded.resident, loaded.outstanding) == (1, ticket.choice.uncached)
    assert other.tally(ticket.worker).in_flight == 0
    other.elsewhere(0, {}, whole=True)
    fresh = {c.id: c.candidate for c in other.rank(FLEET, Prompt(), tie=0, now=NOW)}
    assert (fresh[ticket.worker].resident, fresh[ticket.worker].outstanding) == (0, 0)


def test_prompts_that_a_sibling_gave_to_a_worker_count_when_another_one_is_to_go_there() -> None:
    both = Routers(2)
    one, other = both.all
    for router in both.all:
        router.profile("a", Speed(token=1e-3), None)

    def room(router: Router) -> float:
        return room_in(router.working(FLEET[:1], NOW), backlog=0.25)

    def give(router: Router) -> Ticket:
        prompt = Prompt(size=8000)
        return router.take(router.rank(FLEET[:1], prompt, tie=0, now=NOW)[0], prompt, NOW)

    first = give(one)
    both.tell()
    assert room(one) == room(other) == 0.0, "one prompt is too few"
    give(other)
    both.tell()
    assert room(one) > 0.0
    assert room(other) > 0.0
    one.answered(first, NOW)
    both.tell()
    assert room(one) == room(other) == 0.0


def test_nobody_waits_for_prompts_of_a_sibling_that_has_fallen_silent() -> None:
    both = Routers(2)
    one, other = both.all
    other.profile("a", Speed(token=1e-3), None)
    for _ in range(3):
        prompt = Prompt(size=8000)
        one.take(one.rank(FLEET[:1], prompt, tie=0, now=NOW)[0], prompt, NOW)
    both.tell()

    def found() -> tuple[bool, int]:
        choice = other.rank(FLEET[:1], Prompt(), tie=0, now=NOW)[0]
        room = room_in(other.working(FLEET[:1], NOW), backlog=0.25)
        return room <= 0.0, choice.candidate.resident

    assert found() == (False, 3)
    other.still(0)
    assert found() == (True, 3), "its requests may still be there"
    other.elsewhere(0, one.loads(None, NOW), whole=True)
    assert found() == (False, 3), "it goes on"


def test_loads_are_right_again_after_an_update_that_did_not_arrive() -> None:
    both = Routers(2)
    one, other = both.all
    ticket = send(one, Prompt(size=4000))
    both.tell()
    one.ended(ticket)
    both.change_logs[0].read()  # lost
    other.elsewhere(0, one.loads(None, NOW), whole=True)
    found = other.rank(FLEET, Prompt(), tie=0, now=NOW)
    assert all(choice.candidate.resident == 0 for choice in found)


def test_a_worker_that_broke_under_one_process_is_avoided_by_the_other() -> None:
    both = Routers(2)
    one, other = both.all
    ticket = send(one, Prompt(size=100))
    one.ended(ticket, failed=True, down_at=NOW)
    both.tell()
    assert other.rank(FLEET, Prompt(), tie=0.0, now=NOW)[-1].id == ticket.worker
    assert other.to_probe(NOW + 60) == [ticket.worker]
    again = send(one, Prompt(size=100))
    again.worker = ticket.worker
    one.answered(again, NOW)
    both.tell()
    assert other.to_probe(NOW + 60) == []


def test_a_prompt_that_a_worker_never_computed_is_taken_back_everywhere() -> None:
    both = Routers(2)
    one, other = both.all
    prompt = prompt_of(b"y" * 8000)
    ticket = send(one, prompt)
    both.tell()
    assert max(c.matched for c in other.rank(FLEET, prompt, tie=0, now=NOW)) > 0
    one.ended(ticket, failed=True)
    both.tell()
    assert max(c.matched for c in other.rank(FLEET, prompt, tie=0, now=NOW)) == 0


def test_a_restarted_worker_is_known_to_have_nothing_by_all() -> None:
    both = Routers(2)
    one, other = both.all
    prompt, worker = prompt_of(b"z" * 8000), ""
    for epoch in (b"first", b"second"):
        ticket = send(one, prompt)
        worker = worker or ticket.worker
        ticket.worker = worker
        one.answered(ticket, NOW, epoch=epoch)
        one.ended(ticket)
        both.tell()
    assert other.epoch(worker) == b"second"
    matched = {c.id: c.matched for c in other.rank(FLEET, prompt, tie=0, now=NOW)}
    assert matched[worker] == 0


def test_a_session_that_began_at_one_process_goes_on_at_the_other() -> None:
    both = Routers(2)
    one, other = both.all
    ticket = send(one, prompt_of(b"", "mine"))
    both.tell()
    found = {
        c.id: c.candidate.session for c in other.rank(FLEET, Prompt(session="mine"), tie=0, now=NOW)
    }
    assert [name for name, session in found.items() if session] == [ticket.worker]


def test_a_slow_worker_is_put_aside_once_for_all() -> None:
    both = Routers(2)
    one, other = both.all
    for router in both.all:
        router.rank(FLEET, Prompt(), tie=0, now=NOW)
    for at in (NOW, NOW + 10):
        for name in "abcd":
            for _ in range(5):
                one.streamed(name, 1.0 if name == "b" else 0.01)
        both.tell()
        pool = dict.fromkeys("abcd", ())
        found = one.put_slow_aside(pool, at)
        both.tell()
    assert found == ["b"]
    assert other.put_slow_aside(pool, NOW + 10.5) == []
    assert other.rank(FLEET, Prompt(), tie=0, now=NOW + 11)[-1].id == "b"


def test_a_request_that_kills_workers_is_kept_away_by_all() -> None:
    changes = ChangeLog(lambda: None)
    one, other = SharedQuarantine(changes), SharedQuarantine(ChangeLog(lambda: None))
    one.suspect(7, "a", NOW)
    one.suspect(7, "b", NOW)
    one.suspect(8, "a", NOW)
    one.clear(8)
    assert isinstance(one, Quarantine)
    for event in changes.read()[0]:
        assert other.hear(event)
    assert other.holds(7, NOW)
    assert not other.hear(["sent", "a"])


class Processes:
    """Two processes of one gateway, with a tenant."""

    def __init__(self, **limits: int) -> None:
        self.now = NOW
        self.all = [SharedTenancy(lambda: self.now, ChangeLog(lambda: None)) for _ in range(2)]
        tenant = Tenant("t", limits=Limits(**limits))
        for tenancy in self.all:
            tenancy.change(TenantRegistry([(tenant, [hash_of("sk-t")])]))
        self.meters = [tenancy._meters["t"] for tenancy in self.all]

    def active(self, number: int) -> None:
        assert self.all[number].request("sk-t").tenant.id == "t"

    def tell(self) -> None:
        told = [tenancy.usage() for tenancy in self.all]
        for number, tenancy in enumerate(self.all):
            tenancy.hear(1 - number, told[1 - number], whole=True)


@given(st.lists(st.integers(0, 1), max_size=30), st.integers(1, 10))
def test_a_minute_has_as_many_requests_as_the_tenant_may_have_over_all(
    numbers: list[int], limit: int
) -> None:
    both, taken = Processes(requestsPerMinute=limit), 0
    for number in numbers:
        both.active(number)
        try:
            both.meters[number].begin(NOW)
            taken += 1
        except LimitReached:
            assert taken == limit
        both.tell()
    assert taken == min(limit, len(numbers))


def test_tokens_that_were_not_used_are_given_back_everywhere() -> None:
    both = Processes(tokensPerMinute=100)
    both.active(0)
    both.meters[0].begin(NOW)
    reserved = both.meters[0].reserve(80, NOW)
    both.tell()
    with pytest.raises(LimitReached):
        both.meters[1].reserve(30, NOW)
    both.meters[0].settle(reserved, 10, NOW)
    both.tell()
    assert both.meters[1].reserve(90, NOW) == 90


def test_requests_under_way_count_everywhere_until_their_process_ends() -> None:
    both = Processes(concurrency=1)
    both.active(0)
    both.meters[0].begin(NOW)
    both.tell()
    with pytest.raises(LimitReached):
        both.meters[1].begin(NOW)
    both.all[1].gone(0)
    both.meters[1].begin(NOW)


def test_a_process_that_begins_learns_what_is_left_and_counts_nothing_twice() -> None:
    both = Processes(requestsPerMinute=10)
    for _ in range(6):
        both.active(0)
        both.meters[0].begin(NOW)
    both.all[1].begin(0, *both.all[0].opening())
    assert both.meters[1].left(NOW)["x-ratelimit-remaining-requests"] == "4"
    both.tell()
    assert both.meters[1].left(NOW)["x-ratelimit-remaining-requests"] == "4"
