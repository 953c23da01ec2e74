"""For whom a prompt waits while workers have enough of them: those that it can really go to."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api import Role
from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import (
    Fleet,
    FleetCanary,
    FleetDisaggregation,
    FleetModel,
    FleetQueue,
    FleetWorker,
)
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.relay.hold import Hold
from penstock_gateway.routing.destination import ANYWHERE, Destination, destined
from penstock_gateway.routing.prefix_index import PrefixIndex, prefix_keys
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import Speed
from penstock_gateway.routing.ticket import Prompt, Ticket

NOW = 100.0
SLOW = Speed(0.0, 1e-3, 0.0)
SPLIT, TRIAL = Destination(split=True), Destination(trial=True)
CANARY = FleetCanary(revision="new", weight=50)
QUEUE = FleetQueue(per_worker=100, max_requests=100, timeout=30.0)


def worker(name: str, role: Role = Role.UNIFIED, revision: str = "old") -> FleetWorker:
    return FleetWorker(
        id=name, url=f"http://{name}", deployment="d", pool="p", role=role, revision=revision
    )


def model(
    mode: DisaggregationMode = DisaggregationMode.AUTO,
    canary: FleetCanary | None = None,
    ttft: float | None = 2.0,
) -> FleetModel:
    rule = FleetDisaggregation(mode=mode, min_uncached_tokens=512)
    return FleetModel(
        name="m", deployment="d", queue=QUEUE, ttft=ttft, canary=canary, disaggregation=rule
    )


class Workers:
    """A fleet whose workers take a second for a thousand tokens."""

    def __init__(self, *workers: FleetWorker, told: bool = True) -> None:
        self.router = Router(PrefixIndex())
        for one in workers:
            self.router.profile(one.id, SLOW if told else None, None)
        directory = Directory(Fleet(generation=1, workers=workers))
        self.hold = Hold(self.router, lambda: directory, lambda: NOW)
        self.workers = workers

    def give(self, to: FleetWorker, count: int = 2, size: int = 8000) -> list[Ticket]:
        """Give a worker prompts of two seconds."""
        prompt, found = Prompt(size=size), []
        for _ in range(count):
            choice = self.router.rank([to], prompt, tie=0.0, now=NOW)[0]
            found.append(self.router.take(choice, prompt, NOW))
        return found


P, D = worker("p", Role.PREFILL), worker("d", Role.DECODE)


@pytest.mark.parametrize("mode", [DisaggregationMode.AUTO, DisaggregationMode.ALWAYS])
def test_prompts_for_prefill_workers_wait_for_these_whatever_decode_workers_have(
    mode: DisaggregationMode,
) -> None:
    found = Workers(P, D)
    (stream,) = found.give(D, 1)
    found.router.answered(stream, NOW)
    assert found.hold.wants_prompt(model(mode), SPLIT)
    first, _ = found.give(P)
    assert not found.hold.wants_prompt(model(mode), SPLIT)
    assert found.hold.wants_prompt(model(mode), ANYWHERE), "decode workers have no prompt"
    found.router.answered(first, NOW)
    assert found.hold.wants_prompt(model(mode), SPLIT)


def test_a_decode_worker_with_nothing_to_do_computes_a_prompt_itself_where_it_may() -> None:
    found = Workers(P, D)
    found.give(P)
    assert found.hold.wants_prompt(model(DisaggregationMode.AUTO), SPLIT)
    assert not found.hold.wants_prompt(model(DisaggregationMode.ALWAYS), SPLIT)


def test_short_prompts_wait_for_decode_workers_whatever_prefill_workers_have() -> None:
    found = Workers(P, D)
    found.give(D)
    assert not found.hold.wants_prompt(model(), ANYWHERE)
    assert found.hold.wants_prompt(model(), SPLIT)


@pytest.mark.parametrize(
    ("mode", "size", "splits", "split"),
    [
        (DisaggregationMode.AUTO, 8000, True, True),
        (DisaggregationMode.AUTO, 800, True, False),
        (DisaggregationMode.AUTO, 8000, False, False),
        (DisaggregationMode.ALWAYS, 800, True, True),
        (DisaggregationMode.NEVER, 8000, True, False),
    ],
)
def test_a_prompt_is_for_prefill_workers_as_the_deployment_says(
    mode: DisaggregationMode, size: int, splits: bool, split: bool
) -> None:
    prompt = Prompt(size=size)
    assert Workers(P, D).hold.destination(model(mode), prompt, b"", splits=splits).split is split
    assert not Workers(D).hold.destination(model(mode), prompt, b"", splits=splits).split


def test_what_a_decode_worker_has_cached_is_not_for_prefill_workers() -> None:
    found, text = Workers(P, D), b"system prompt " * 1000
    prompt = Prompt(prefix_keys(text), len(text))
    assert found.hold.destination(model(), prompt, text, splits=True) == SPLIT
    choice = found.router.rank([D], prompt, tie=0.0, now=NOW)[0]
    found.router.answered(found.router.take(choice, prompt, NOW), NOW)
    assert found.hold.destination(model(), prompt, text, splits=True) == ANYWHERE


def test_each_revision_is_waited_for_by_its_own_sessions() -> None:
    old, new = worker("a"), worker("b", revision="new")
    found, asked = Workers(old, new), model(canary=CANARY)
    found.give(old)
    assert not found.hold.wants_prompt(asked, ANYWHERE), "whatever the new revision has"
    assert found.hold.wants_prompt(asked, TRIAL)
    found.give(new)
    assert not found.hold.wants_prompt(asked, TRIAL)
    assert {
        found.hold.destination(asked, Prompt(session=str(n)), b"", splits=True) for n in range(40)
    } == {ANYWHERE, TRIAL}


def test_where_none_of_a_prompts_own_workers_works_it_waits_for_those_that_get_it() -> None:
    old, new = worker("a"), worker("b", revision="new")
    found, asked = Workers(old, new), model(canary=CANARY)
    found.router.probed("b", well=False, now=NOW)
    assert found.hold.wants_prompt(asked, TRIAL)
    found.give(old)
    assert not found.hold.wants_prompt(asked, TRIAL)
    found = Workers(P, D)
    found.router.probed("p", well=False, now=NOW)
    found.give(D)
    assert not found.hold.wants_prompt(model(DisaggregationMode.ALWAYS), SPLIT)
    found.router.probed("d", well=False, now=NOW)
    assert found.hold.wants_prompt(model(DisaggregationMode.ALWAYS), SPLIT), "there is nobody"


def test_sessions_of_all_revisions_stand_in_one_line_for_prefill_workers() -> None:
    prefill = worker("q", Role.PREFILL, revision="new")
    found, asked = Workers(P, D, prefill), model(canary=CANARY)
    prompts = [Prompt(size=8000, session=str(n)) for n in range(40)]
    assert {found.hold.destination(asked, one, b"", splits=True) for one in prompts} == {SPLIT}


def test_without_an_objective_nobody_waits_and_nothing_is_looked_up() -> None:
    found, asked = Workers(P, D), model(canary=CANARY, ttft=None)
    found.give(P)
    found.give(D)
    prompt = Prompt(size=8000, session="s")
    assert found.hold.destination(asked, prompt, b"", splits=True) is ANYWHERE
    assert found.hold.wants_prompt(asked, SPLIT)


def test_it_tells_when_there_will_be_room() -> None:
    found = Workers(worker("a"))
    found.give(found.workers[0], 3)
    assert found.hold.room_in(model(), ANYWHERE) == pytest.approx(4.0), "two of three are computed"
    found = Workers(worker("a"))
    found.give(found.workers[0], 100, size=40)
    assert found.hold.room_in(model(), ANYWHERE) == pytest.approx(1.0 - 0.25)


def learned(found: Workers, one: FleetWorker, token: float = 1e-3) -> None:
    """Have a worker show by its first tokens what prompts cost it."""
    now, chance = NOW, random.Random(3)
    for _ in range(60):
        prompt = Prompt(size=chance.randint(400, 40_000))
        choice = found.router.rank([one], prompt, tie=0.0, now=now)[0]
        ticket = found.router.take(choice, prompt, now)
        now += 0.05 + token * choice.uncached
        found.router.answered(ticket, now)
        found.router.ended(ticket)


def test_workers_that_do_not_tell_get_prompts_ahead_by_what_they_have_shown() -> None:
    silent = worker("a")
    found = Workers(silent, told=False)
    found.give(silent, 3)
    assert found.hold.wants_prompt(model(), ANYWHERE), "nothing is known yet"
    assert found.hold.prompt_seconds(model(), ANYWHERE, 4000) == 0.0
    found = Workers(silent, told=False)
    learned(found, silent)
    assert found.hold.prompt_seconds(model(), ANYWHERE, 4000) == pytest.approx(1.0, rel=0.1)
    found.give(silent, 2)
    assert not found.hold.wants_prompt(model(), ANYWHERE)
    assert found.hold.room_in(model(), ANYWHERE) == pytest.approx(2.0, rel=0.1)


def test_a_new_one_is_taken_to_be_as_fast_as_the_fastest_of_the_others() -> None:
    fast, slow, new = worker("a"), worker("b"), worker("c")
    found = Workers(fast, slow, new, told=False)
    learned(found, fast, 1e-3)
    learned(found, slow, 4e-3)
    for one in (fast, slow, new):
        found.give(one, 3)
    assert found.hold.room_in(model(), ANYWHERE) == pytest.approx(4.0, rel=0.1)
    only = Workers(worker("d"), told=False)
    only.give(only.workers[0], 3)
    assert only.hold.wants_prompt(model(), ANYWHERE), "there is nobody to be as fast as"


def test_during_a_canary_nothing_is_believed_of_the_new_revision_by_the_old_one() -> None:
    old, new = worker("a"), worker("b", revision="new")
    found, asked = Workers(old, new, told=False), model(canary=CANARY)
    learned(found, old)
    found.give(old)
    found.give(new, 5)
    assert not found.hold.wants_prompt(asked, ANYWHERE)
    assert found.hold.wants_prompt(asked, TRIAL)


@pytest.mark.parametrize("told", [False, True])
def test_a_worker_that_told_what_prompts_cost_is_believed_whatever_its_streams_show(
    told: bool,
) -> None:
    one = worker("a")
    found = Workers(one, told=told)
    learned(found, one, 5e-3)
    expected = 1.0 if told else 5.0
    assert found.hold.prompt_seconds(model(), ANYWHERE, 4000) == pytest.approx(expected, rel=0.1)


workers = st.lists(
    st.builds(
        worker,
        name=st.integers(0, 99).map(str),
        role=st.sampled_from([Role.UNIFIED, Role.DECODE]),
        revision=st.sampled_from(["old", "new"]),
    ),
    unique_by=lambda one: one.id,
    max_size=6,
)


@given(workers, workers, st.booleans(), st.booleans(), st.sampled_from([None, CANARY]))
def test_there_is_somebody_to_wait_for_wherever_there_is_anybody(
    whole: Sequence[FleetWorker],
    prefill: Sequence[FleetWorker],
    split: bool,
    trial: bool,
    canary: FleetCanary | None,
) -> None:
    found = destined(Destination(split, trial), canary, whole, prefill)
    assert bool(found) == bool((split and prefill) or whole)
