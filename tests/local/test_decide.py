"""The policy of the local runtime, by example and by property.

The properties run `decide` against a simulated machine whose processes become ready, die, hang and
exit in whatever order hypothesis likes best.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_operator.local.backoff import LONGEST, Backoff
from penstock_operator.local.decide import (
    KILL_GRACE,
    SILENCE_DEADLINE,
    START_DEADLINE,
    Drain,
    Kill,
    Phase,
    PoolKey,
    Process,
    Start,
    Terminate,
    Wanted,
    decide,
)

POOL = PoolKey("quickstart", "default")


def wanted(replicas: int = 2, revision: str = "new", **options: Any) -> Wanted:
    return replace(Wanted(POOL, replicas, revision), **options)


def process(name: str, phase: Phase = Phase.READY, **options: Any) -> Process:
    base = Process(
        id=name,
        key=POOL,
        revision="new",
        phase=phase,
        started=0,
        phase_since=0,
        last_healthy=100,
    )
    return replace(base, **options)


def ids(actions: Sequence[object], kind: type[Drain | Terminate | Kill]) -> list[str]:
    return [action.id for action in actions if isinstance(action, kind)]


def test_an_empty_pool_is_filled() -> None:
    actions = decide([wanted(3)], [], {}, now=100)
    assert [type(action) for action in actions] == [Start] * 3


def test_nothing_is_done_when_all_is_as_wanted() -> None:
    assert decide([wanted(2)], [process("a"), process("b")], {}, now=100) == []


def test_scaling_down_drains_those_that_serve_nothing_first_then_the_youngest() -> None:
    processes = [
        process("old", started=1),
        process("young", started=9),
        process("starting", Phase.STARTING, started=5),
    ]
    assert ids(decide([wanted(2)], processes, {}, now=100), Drain) == ["starting"]
    assert ids(decide([wanted(1)], processes, {}, now=100), Drain) == ["starting", "young"]


def test_a_draining_process_is_terminated_once_the_gateway_surely_knows() -> None:
    leaving = process("a", Phase.DRAINING, phase_since=100, settle=0.5)
    assert decide([], [leaving], {}, now=100.4) == []
    assert ids(decide([], [leaving], {}, now=100.5), Terminate) == ["a"]


def test_a_terminated_process_is_killed_only_after_its_drain_timeout_and_grace() -> None:
    leaving = process("a", Phase.TERMINATING, phase_since=100, drain_timeout=30)
    assert decide([], [leaving], {}, now=129 + KILL_GRACE) == []
    assert ids(decide([], [leaving], {}, now=130 + KILL_GRACE), Kill) == ["a"]


def test_a_pool_that_is_no_longer_wanted_is_drained() -> None:
    assert ids(decide([], [process("a")], {}, now=100), Drain) == ["a"]


def test_a_rollout_starts_one_new_worker_before_an_old_one_drains() -> None:
    old = [process("a", revision="old"), process("b", revision="old", started=1)]
    first = decide([wanted(2)], old, {}, now=100)
    assert [type(action) for action in first] == [Start]
    starting = process("c", Phase.STARTING)
    assert decide([wanted(2)], [*old, starting], {}, now=100) == []
    ready = process("c")
    assert ids(decide([wanted(2)], [*old, ready], {}, now=100), Drain) == ["b"]


def test_a_new_revision_that_never_becomes_ready_leaves_the_old_one_serving() -> None:
    old = [process("a", revision="old"), process("b", revision="old")]
    backoffs = {POOL: Backoff(failures=4, last=99)}
    assert decide([wanted(2)], old, backoffs, now=100) == []


def test_an_old_worker_that_serves_nothing_is_replaced_at_once() -> None:
    broken = process("a", Phase.STARTING, revision="old")
    actions = decide([wanted(1, max_surge=0)], [broken], {}, now=100)
    assert ids(actions, Drain) == ["a"]


def test_without_surge_a_rollout_takes_workers_away_first() -> None:
    old = [process("a", revision="old"), process("b", revision="old")]
    pool = wanted(2, max_surge=0, max_unavailable=1)
    assert len(ids(decide([pool], old, {}, now=100), Drain)) == 1


def test_a_hung_worker_is_killed() -> None:
    hung = process("a", last_healthy=100)
    assert ids(decide([wanted(1)], [hung], {}, now=100 + SILENCE_DEADLINE), Kill) == ["a"]


def test_a_worker_that_never_becomes_ready_is_killed() -> None:
    slow = process("a", Phase.STARTING, started=0)
    assert ids(decide([wanted(1)], [slow], {}, now=START_DEADLINE), Kill) == ["a"]


def test_starts_wait_for_the_back_off() -> None:
    backoffs = {POOL: Backoff(failures=3, last=100)}
    assert decide([wanted(1)], [], backoffs, now=103.9) == []
    assert [type(a) for a in decide([wanted(1)], [], backoffs, now=104)] == [Start]


def test_every_action_says_why() -> None:
    processes = [process("a", revision="old"), process("b"), process("c", Phase.DRAINING)]
    assert all(action.reason for action in decide([wanted(1)], processes, {}, now=100))


@pytest.mark.parametrize(
    ("failures", "delay"), [(0, 0), (1, 1), (2, 2), (6, 32), (7, 60), (99, 60)]
)
def test_the_back_off_doubles_up_to_a_minute(failures: int, delay: float) -> None:
    assert Backoff(failures).delay == delay


def test_a_healthy_minute_resets_the_back_off() -> None:
    looping = Backoff(failures=5, last=10)
    assert looping.after_exit(started=20, ready_since=21, now=80).failures == 6
    assert looping.after_exit(started=20, ready_since=20, now=80).failures == 1


def test_workers_that_die_together_count_once() -> None:
    once = Backoff().after_exit(started=0, ready_since=None, now=10)
    assert once.after_exit(started=1, ready_since=None, now=10.1) == once


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=40))
def test_the_back_off_stays_between_nothing_and_a_minute(
    attempts: list[tuple[float, bool]],
) -> None:
    now, backoff = 0.0, Backoff()
    for lifetime, served in attempts:
        started = max(now, backoff.retry_at)
        now = started + lifetime
        backoff = backoff.after_exit(started, started if served else None, now)
        assert 0 < backoff.delay <= LONGEST
        assert backoff.retry_at <= now + LONGEST


@dataclass
class Machine:
    """Processes that do what they are told, and crash or dawdle when the test says so."""

    processes: dict[str, Process] = field(default_factory=dict)
    backoffs: dict[PoolKey, Backoff] = field(default_factory=dict)
    now: float = 0.0
    count: int = 0

    def run(self, pools: list[Wanted]) -> int:
        """Decide once, do it, and return how many actions there were."""
        actions = decide(pools, list(self.processes.values()), self.backoffs, self.now)
        by_key = {pool.key: pool for pool in pools}
        for action in actions:
            match action:
                case Start(key):
                    self.count += 1
                    self._put(f"p{self.count}", by_key[key])
                case Drain(name):
                    self._enter(name, Phase.DRAINING)
                case Terminate(name):
                    self._enter(name, Phase.TERMINATING)
                case Kill(name):
                    del self.processes[name]
        return len(actions)

    def _put(self, name: str, pool: Wanted) -> None:
        self.processes[name] = Process(
            name, pool.key, pool.revision, Phase.STARTING, self.now, self.now, self.now, 10.0
        )

    def _enter(self, name: str, phase: Phase) -> None:
        self.processes[name] = replace(self.processes[name], phase=phase, phase_since=self.now)

    def happen(self, what: str, which: int) -> None:
        """Let something happen to one of the processes."""
        self.now += 0.3
        if not self.processes:
            return
        name = sorted(self.processes)[which % len(self.processes)]
        one = self.processes[name]
        if what == "ready" and one.phase is Phase.STARTING:
            self._enter(name, Phase.READY)
        elif what == "exit" and one.phase is Phase.TERMINATING:
            del self.processes[name]
        elif what == "crash":
            del self.processes[name]
            before = self.backoffs.get(one.key, Backoff())
            if not one.leaving:
                self.backoffs[one.key] = before.after_exit(one.started, None, self.now)

    def settle(self, pools: list[Wanted]) -> None:
        """Let everything go well until nothing changes any more."""
        for _ in range(200):
            self.now += 1.0
            for name, one in list(self.processes.items()):
                if one.phase is Phase.STARTING:
                    self._enter(name, Phase.READY)
                elif one.phase is Phase.TERMINATING:
                    del self.processes[name]
                else:
                    self.processes[name] = replace(one, last_healthy=self.now)
            self.run(pools)

    def staying(self, key: PoolKey) -> list[Process]:
        return [p for p in self.processes.values() if p.key == key and not p.leaving]


pools = st.builds(
    Wanted,
    key=st.sampled_from([POOL, PoolKey("quickstart", "other")]),
    replicas=st.integers(0, 4),
    revision=st.sampled_from(["r1", "r2", "r3"]),
    max_surge=st.integers(0, 2),
    max_unavailable=st.integers(1, 2),
)
worlds = st.lists(pools, max_size=2, unique_by=lambda pool: pool.key)
happenings = st.lists(
    st.tuples(st.sampled_from(["ready", "exit", "crash", "wait"]), st.integers(0, 20)), max_size=25
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(worlds, happenings), min_size=1, max_size=3))
def test_whatever_happened_before_the_wanted_state_is_reached(
    history: list[tuple[list[Wanted], list[tuple[str, int]]]],
) -> None:
    machine = Machine()
    for world, events in history:
        machine.run(world)
        for what, which in events:
            machine.happen(what, which)
            machine.run(world)
    world = history[-1][0]
    machine.settle(world)
    assert machine.run(world) == 0
    expected = sorted((pool.key, pool.revision) for pool in world for _ in range(pool.replicas))
    assert sorted((p.key, p.revision) for p in machine.processes.values()) == expected


@settings(deadline=None, max_examples=150)
@given(pools, happenings)
def test_from_nothing_there_are_never_more_than_wanted(
    pool: Wanted, events: list[tuple[str, int]]
) -> None:
    machine = Machine()
    for what, which in [("wait", 0), *events]:
        machine.happen(what, which)
        machine.run([pool])
        assert len(machine.staying(pool.key)) <= pool.replicas


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(0, 2),
    st.lists(
        st.tuples(st.sampled_from(["ready", "exit", "wait"]), st.integers(0, 20)), max_size=40
    ),
)
def test_a_rollout_keeps_within_surge_and_availability(
    replicas: int, surge: int, unavailable: int, events: list[tuple[str, int]]
) -> None:
    if surge == unavailable == 0:
        surge = 1  # the API refuses both to be zero
    machine = Machine()
    before = wanted(replicas, "old", max_surge=surge, max_unavailable=unavailable)
    after = replace(before, revision="new")
    machine.settle([before])
    for what, which in events:
        machine.run([after])
        staying = machine.staying(POOL)
        assert len(staying) <= replicas + surge
        assert sum(p.phase is Phase.READY for p in staying) >= replicas - unavailable
        machine.happen(what, which)
    machine.settle([after])
    assert [p.revision for p in machine.staying(POOL)] == ["new"] * replicas


@settings(deadline=None, max_examples=100)
@given(worlds, happenings)
def test_no_process_is_signalled_before_it_was_drained(
    world: list[Wanted], events: list[tuple[str, int]]
) -> None:
    machine = Machine()
    machine.settle(world)
    for what, which in events:
        drained = {p.id for p in machine.processes.values() if p.phase is Phase.DRAINING}
        actions = decide([], list(machine.processes.values()), machine.backoffs, machine.now)
        assert {a.id for a in actions if isinstance(a, Terminate)} <= drained
        machine.happen(what, which)
        machine.run([])
