"""The order of waiting requests, and who is refused when too many wait."""

import random
from collections import Counter
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.first_token import OLDEST_EVERY
from penstock_gateway.admission.fair_queue import RESERVE, Entry, FairQueue
from penstock_gateway.build import is_compiled
from penstock_gateway.routing.destination import Destination


def queue(max_requests: int = 1000, max_bytes: int = 1 << 30) -> FairQueue:
    found = FairQueue(max_bytes)
    found.max_requests = max_requests
    return found


def served(found: FairQueue, turns: int = 10_000) -> list[Entry]:
    order: list[Entry] = []
    while len(order) < turns and (entry := found.pop()):
        order.append(entry)
    return order


offers = st.lists(
    st.builds(
        Entry,
        id=st.integers(),
        cost=st.integers(0, 500),
        held=st.integers(0, 500),
        priority=st.integers(-2, 2),
        share=st.sampled_from("ab"),
        weight=st.integers(1, 4),
    ),
    max_size=60,
    unique_by=lambda e: e.id,
)


@given(offers, st.integers(0, 20), st.integers(0, 2000))
def test_bounds_hold_and_everyone_is_served_shed_or_refused_once(
    entries: list[Entry], most: int, most_bytes: int
) -> None:
    found = queue(most, most_bytes)
    waiting: dict[int, Entry] = {}
    for entry in entries:
        shed = found.offer(entry)
        if shed is not None:
            for victim in shed:
                below = victim.priority < min(entry.priority, 0)
                assert below or (victim.priority, victim.share != entry.share) == (
                    entry.priority,
                    True,
                )
                del waiting[victim.id]
            waiting[entry.id] = entry
        assert len(found) == len(waiting) <= most
        assert sum(e.held for e in waiting.values()) <= most_bytes
    assert {e.id for e in served(found)} == set(waiting)
    assert len(found) == 0


@given(offers, st.integers(1, 20))
def test_negative_priorities_leave_places_for_the_others(entries: list[Entry], most: int) -> None:
    found = queue(most)
    for entry in entries:
        before = len(found)
        shed = found.offer(entry)
        if shed is not None and entry.priority < 0 and not shed:
            assert before < most - most // RESERVE


def test_in_a_flood_of_the_lowest_class_nobody_waits_only_to_be_refused() -> None:
    found = queue(max_requests=16)
    for number in range(1000):
        urgent = number % 10 == 0
        shed = found.offer(Entry(id=number, cost=1, priority=10 if urgent else -10))
        assert shed == [] or (shed is None and not urgent)
        if number % 4 == 0:
            found.pop()


@given(offers)
def test_a_refusal_is_never_for_want_of_trying(entries: list[Entry]) -> None:
    found = queue(max_requests=5)
    waiting: dict[int, Entry] = {}
    for entry in entries:
        shed = found.offer(entry)
        if shed is None:
            assert not [e for e in waiting.values() if e.priority < min(entry.priority, 0)]
            continue
        for victim in shed:
            del waiting[victim.id]
            if victim.priority < entry.priority:
                assert all(victim.priority <= e.priority for e in waiting.values())
        waiting[entry.id] = entry


@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.lists(st.sampled_from(["flood"] * 9 + ["calm"]), min_size=100, max_size=200),
)
def test_whoever_floods_the_line_is_the_one_who_is_refused(
    most: int, weight: int, shares: list[str]
) -> None:
    found = queue(most)
    waiting: Counter[str] = Counter()
    for number, share in enumerate(shares):
        own = weight if share == "calm" else 1
        shed = found.offer(Entry(id=number, cost=1, share=share, weight=own))
        if shed is None:
            # It holds as much as anybody, by weight, or nobody else holds anything.
            other = "calm" if share == "flood" else "flood"
            of_other = 1 if other == "flood" else weight
            assert (waiting[share] + 1) / own >= waiting[other] / of_other
            continue
        waiting[share] += 1
        waiting.subtract(victim.share for victim in shed)
        assert waiting.total() == len(found) <= most


def test_of_a_larger_share_the_newest_goes() -> None:
    found = queue(max_requests=3)
    for number in range(3):
        found.offer(Entry(id=number, cost=1, share="flood"))
    shed = found.offer(Entry(id=9, cost=1, share="calm"))
    assert shed is not None
    assert [entry.id for entry in shed] == [2]
    assert found.offer(Entry(id=10, cost=1, share="flood")) is None


@given(offers)
def test_higher_priorities_go_first_except_for_every_eighth_turn(entries: list[Entry]) -> None:
    found = queue()
    for entry in entries:
        found.offer(entry)
    left = {e.id: e for e in entries}
    for turn, entry in enumerate(served(found), 1):
        if turn % OLDEST_EVERY:
            assert entry.priority == max(e.priority for e in left.values())
        else:
            assert entry.id == next(iter(left))
        del left[entry.id]


def test_the_lowest_priority_is_not_starved() -> None:
    found = queue()
    found.offer(Entry(id=-1, cost=1, priority=-100))
    for n in range(OLDEST_EVERY * 3):
        found.offer(Entry(id=n, cost=1, priority=100))
        entry = found.pop()
        if entry is not None and entry.id == -1:
            return
    raise AssertionError("never served")


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 400), st.integers(1, 400))
def test_shares_get_bytes_by_weight_whatever_the_size_of_their_requests(
    one: int, other: int, small: int, large: int
) -> None:
    found = queue(max_requests=100_000)
    for n in range(2000):
        found.offer(Entry(id=2 * n, cost=small, share="a", weight=one))
        found.offer(Entry(id=2 * n + 1, cost=large, share="b", weight=other))
    # The oldest-first turns are fair to requests, not to bytes: they blur the shares a little.
    order = [e for turn, e in enumerate(served(found, 800), 1) if turn % OLDEST_EVERY]
    got: Counter[str] = Counter()
    for entry in order:
        got[entry.share] += entry.cost
    gap = abs(got["a"] / one - got["b"] / other)
    oldest = 800 // OLDEST_EVERY * max(small, large)
    assert gap <= max(small, large) * 2 + oldest


def test_a_share_that_was_idle_has_no_credit() -> None:
    found = queue()
    for n in range(50):
        found.offer(Entry(id=n, cost=100, share="busy"))
        if n < 40:
            found.pop()
    for n in range(50):
        found.offer(Entry(id=100 + n, cost=100, share="late"))
    shares = [entry.share for entry in served(found, 14)]
    assert 4 <= shares.count("busy") <= 10


def test_who_leaves_the_queue_is_forgotten() -> None:
    found = queue(max_requests=1)
    found.offer(Entry(id=1, cost=1))
    found.remove(1)
    found.remove(1)
    assert found.offer(Entry(id=2, cost=1)) == []
    assert [e.id for e in served(found)] == [2]


def test_who_can_still_be_in_time_goes_before_who_cannot() -> None:
    found = queue()
    for number, latest in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        found.offer(Entry(number, cost=1, latest=latest))
    order = [entry.id for _ in range(5) if (entry := found.pop(now=2.5))]
    assert order == [2, 3, 4, 0, 1]


def test_who_is_late_goes_when_it_has_waited_longest_in_its_turn() -> None:
    found, order = queue(), []
    found.offer(Entry(-1, cost=1, latest=0.0))
    for turn in range(OLDEST_EVERY):
        found.offer(Entry(turn, cost=1, latest=100.0))
        entry = found.pop(now=1.0)
        assert entry is not None
        order.append(entry.id)
    assert order[-1] == -1


def test_who_is_overdue_is_not_overtaken_any_more() -> None:
    found = queue()
    found.offer(Entry(1, cost=1, latest=0.0, overdue=15.0))
    for number in range(2, 6):
        found.offer(Entry(number, cost=1, latest=100.0))
    order = [entry.id for now in (10.0, 14.0, 15.0, 16.0) if (entry := found.pop(now))]
    assert order == [2, 3, 1, 4]


def test_being_late_costs_a_share_nothing_against_another() -> None:
    found = queue()
    for number in range(40):
        found.offer(Entry(number, cost=1, share="late", latest=0.0))
        found.offer(Entry(100 + number, cost=1, share="in time", latest=9.0))
    first = [entry.share for _ in range(40) if (entry := found.pop(now=1.0))]
    assert 18 <= first.count("late") <= 22


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=40))
def test_whatever_is_late_everybody_leaves_once(entries: list[tuple[float, bool]]) -> None:
    found = queue()
    for number, (latest, _) in enumerate(entries):
        found.offer(Entry(number, cost=1, latest=latest))
    left = [number for number, (_, stays) in enumerate(entries) if not stays]
    for now, number in enumerate(left):
        if now % 2 and (entry := found.pop(now=now)):
            found.offer(entry)
        found.remove(number)
    stayed = {number for number, (_, stays) in enumerate(entries) if stays}
    assert {entry.id for entry in served(found)} == stayed


HERE, THERE = Destination(), Destination(split=True)


def test_those_whose_workers_are_busy_stand_in_nobodys_way() -> None:
    found = queue()
    for number in range(20):
        found.offer(Entry(number, cost=1, lane=HERE))
    for number in range(20, 30):
        found.offer(Entry(number, cost=1, lane=THERE))
    order = [entry.id for _ in range(10) if (entry := found.pop(lanes=[THERE]))]
    assert order == list(range(20, 30))
    assert found.pop(lanes=[THERE]) is None
    assert (found.waiting_in(HERE), found.waiting_in(THERE)) == (20, 0)
    assert [entry.id for entry in served(found)] == list(range(20))


def test_a_lower_class_goes_where_the_higher_one_cannot() -> None:
    found = queue()
    found.offer(Entry(1, cost=1, priority=10, lane=HERE))
    found.offer(Entry(2, cost=1, priority=0, lane=THERE))
    entry = found.pop(lanes=[THERE])
    assert entry is not None
    assert entry.id == 2


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 10), st.sampled_from("ab")), max_size=60),
    st.lists(st.sets(st.sampled_from([HERE, THERE])), max_size=60),
)
def test_everybody_goes_once_and_only_where_there_is_room(
    entries: list[tuple[bool, float, str]], rooms: list[set[Destination]]
) -> None:
    found, went = queue(), []
    for number, (split, latest, share) in enumerate(entries):
        lane = Destination(split=split)
        found.offer(Entry(number, cost=1, share=share, latest=latest, lane=lane))
    for now, lanes in enumerate(rooms):
        possible = sum(found.waiting_in(lane) for lane in lanes)
        entry = found.pop(float(now), lanes)
        assert (entry is not None) == bool(possible)
        if entry is not None:
            assert entry.lane in lanes
            went.append(entry.id)
    went += [entry.id for entry in served(found)]
    assert sorted(went) == list(range(len(entries)))


def counted() -> Any:
    """Return entries that count how often anybody looks at one, or compares it with another."""

    class Counted(Entry):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            Counted.looks += 1
            return super().__getattribute__(name)

        def __eq__(self, other: object) -> bool:
            Counted.looks += 1
            return self is other

        __hash__ = None  # type: ignore[assignment]

    return Counted


@pytest.mark.skipif(is_compiled(), reason="what is compiled cannot be counted")
@pytest.mark.parametrize("late", [False, True])
def test_in_a_long_line_who_leaves_costs_no_more_than_in_a_short_one(late: bool) -> None:
    many, found, kind = 3000, queue(max_requests=10_000), counted()
    for number in range(many):
        latest = -1.0 if late and number % 2 else inf
        found.offer(kind(number, cost=1, share="ab"[number % 2], latest=latest))
    found.pop()  # who is late is known now
    kind.looks = 0
    for number in random.Random(1).sample(range(many), many):  # clients that wait no longer
        found.remove(number)
    assert len(found) == 0
    assert kind.looks < 50 * many
