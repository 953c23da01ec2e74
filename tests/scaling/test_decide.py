"""Decisions: what traffic asks for, and what broken metrics must never do."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observations import SPEC, seen

from penstock_contract.api import Role, ScalingPolicy
from penstock_operator.scaling.budget import inside_budget
from penstock_operator.scaling.cover import AIM, HEAVIEST, RISE, Cover, News, Usual, covers
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.guards import guard
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.signal import ABSENT, Health, Signal
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec
from penstock_operator.scaling.state import PoolState, ScalingState

NEWS = News(weighed=60.0, leads=0.8)


def test_what_batches_fill_asks_for_no_replica() -> None:
    """They take all that is free: sized by that, a pool would grow to its maximum."""
    view = seen(20.0, 2).pools["default"]
    full = {
        "running": Signal(8 * 20.0 * 4),
        "kv_tokens": Signal(9000 * 20.0 * 4),
        "decode_share": Signal((view.decode_share.value or 0.0) * 4),
    }
    alone = Run(desired=2).see(20.0, 40).size
    assert Run(desired=2).see(20.0, 40, **full).size > alone
    assert Run(desired=2).see(20.0, 40, **full, spare_share=Signal(0.75)).size == alone
    stale = Signal(0.75, age=1000.0)
    assert Run(desired=2).see(20.0, 40, **full, spare_share=stale).size > alone


class Run:
    """A pool that follows the decisions, every 15 seconds."""

    def __init__(self, spec: ScalingSpec = SPEC, desired: int = 1) -> None:
        self.spec = spec
        self.size = desired
        self.now = 0.0
        self.state = ScalingState()
        self.sizes: list[int] = []
        self.last: Decision | None = None

    def see(self, rate: float, times: int = 1, **changes: Signal) -> "Run":
        """Decide some times on the same."""
        for _ in range(times):
            self.now += 15.0
            view = seen(rate, self.size, **changes)
            self.state, decisions = decide(self.state, view, self.spec, self.now)
            self.last = decisions.pools["default"]
            self.size = self.last.replicas
            self.sizes.append(self.size)
        return self


def test_little_s_law_by_hand() -> None:
    # Work per request: 1000·0.1 ms + 200·(0.1 ms + 0.1 µs·1100) = 0.1 + 0.042 s; λ = 20/s gives
    # 2.84 busy replicas; TPOT of 100 ms allows ρ = 1 − 15/100 = 0.85: 3.34, so 4.
    run = Run().see(20, times=60)
    assert run.last is not None
    assert run.last.need is not None
    assert run.last.need.numbers["level"] == pytest.approx(2.84, abs=0.01)
    assert run.last.need.counts["tpot"] == pytest.approx(3.34, abs=0.01)
    assert run.size == 4


def test_load_grows_the_pool_at_once_and_its_end_shrinks_it_later() -> None:
    run = Run().see(5, times=40)
    small = run.size
    run.see(40, times=20)
    assert run.size > small
    grown = run.size
    run.see(5, times=5)
    assert run.size == grown, "one window has to pass"
    assert run.see(5, times=300).size <= small


def test_long_answers_are_bound_by_their_kv() -> None:
    run = Run().see(2, times=60, kv_tokens=Signal(3_000_000))
    assert run.last is not None
    assert run.last.need is not None
    assert run.last.need.binding == "kv"
    assert run.size >= 9


def test_a_pool_without_a_free_sequence_grows_though_it_has_little_work() -> None:
    few = replace(SPEC, pools=(replace(SPEC.pools[0], slots=16),))
    full = Run(few, desired=2).see(2, times=60, running=Signal(32), queued_requests=Signal(500))
    assert full.last is not None
    assert full.last.need is not None
    assert full.last.need.binding == "sequences"
    # What waits is no concurrency: the queue of 500 asks for one more replica, not for 35.
    assert full.size == 3
    assert Run(SPEC, desired=2).see(2, times=60, running=Signal(32)).size == 1


def test_one_long_answer_after_the_last_arrival_never_grows_the_pool() -> None:
    run = Run()
    for step in range(40):  # traffic that varies, so that there are errors to cover
        run.see(8 + 6 * (step % 3))
    before = run.size
    left = {"running": Signal(1), "kv_tokens": Signal(18_000), "decode_share": Signal(0.002)}
    run.see(0, times=60, **left)
    assert max(run.sizes[-60:]) == before
    assert run.size == 1


def test_an_objective_that_no_number_meets_is_told_and_scales_nothing() -> None:
    run = Run(replace(SPEC, tpot=Objective(0.9, 0.01)), desired=3).see(50, times=10)
    assert run.size == 3
    assert run.last is not None
    assert "no number of replicas" in run.last.reason


@pytest.mark.parametrize("missing", ["ttft", "tpot"])
def test_lateness_beyond_the_only_objective_makes_more_headroom(missing: str) -> None:
    without: dict[str, Any] = {missing: None}
    run = Run(replace(SPEC, **without)).see(20, times=60)
    before = run.state.covers[Role.UNIFIED].factor
    run.see(20, times=20, late_share=Signal(0.05))
    assert run.state.covers[Role.UNIFIED].factor > before


@pytest.mark.parametrize(
    ("late", "role"), [("late_ttft", Role.PREFILL), ("late_tpot", Role.DECODE)]
)
def test_lateness_makes_more_headroom_only_where_it_comes_from(late: str, role: Role) -> None:
    none = Signal(0.0)
    traffic = Traffic(late_share=Signal(0.05), late_ttft=none, late_tpot=none)
    found = covers({}, replace(traffic, **{late: Signal(0.05)}), SPEC, NEWS)
    other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
    assert found[role].factor > 1 > found[other].factor
    assert found[Role.UNIFIED].factor > 1, "a pool that does both answers for both"


def test_without_news_of_lateness_headroom_stays() -> None:
    before = Cover(1.7, 600.0)
    assert covers({Role.DECODE: before}, Traffic(), SPEC, NEWS)[Role.DECODE] == before


def test_one_burst_does_not_raise_headroom_without_bound() -> None:
    """All are late until what was started serves: that says no more than that it was too little."""
    found = Cover()
    for _ in range(12):
        found = found.after(Signal(1.0), 0.01, News(weighed=20.0, leads=1 / 12))
    assert found.factor == pytest.approx(RISE)


def test_what_has_long_been_learned_moves_little() -> None:
    young = Cover(1.0, 0.0).after(Signal(0.02), 0.01, NEWS)
    old = Cover(1.0, 12 * 3600.0).after(Signal(0.02), 0.01, NEWS)
    assert 1 < old.factor < 1.01 < young.factor


@given(shares=st.lists(st.sampled_from([0.0, AIM * 0.01, 0.02, 1.0]), max_size=200))
def test_headroom_rises_only_while_more_are_late_than_it_aims_at(shares: list[float]) -> None:
    cover = Cover()
    for share in shares:
        after = cover.after(Signal(share), 0.01, NEWS)
        assert cover.learned < after.learned
        if share <= AIM * 0.01:
            assert after.factor <= cover.factor * (1 + 1e-12)
        else:
            assert cover.factor <= after.factor <= cover.factor * RISE**NEWS.leads * (1 + 1e-12)
        cover = after


def test_a_moment_with_more_requests_counts_more() -> None:
    usual = Usual()
    for rate in [10.0] * 100 + [20.0]:
        usual = usual.after(Signal(rate), 15.0)
    assert usual.weight(Signal(20.0)) == pytest.approx(2, rel=0.05)
    assert usual.weight(Signal(5.0)) == pytest.approx(0.5, rel=0.05)
    assert usual.weight(Signal(1e9)) == HEAVIEST
    assert usual.after(ABSENT, 15.0) == usual
    assert usual.weight(ABSENT) == Usual().weight(Signal(3.0)) == 1


@pytest.mark.parametrize(("count", "size"), [(4.3, 5), (4.2, 4), (3.01, 4), (2.9, 3), (1.5, 3)])
def test_a_replica_goes_only_when_those_that_stay_have_some_room(count: float, size: int) -> None:
    state = PoolState(first_seen=0.0)
    bounds, now = SPEC.pools[0], 1000.0
    proposal, _ = guard(count, 4, Health.FRESH, state, bounds, SPEC, now)
    assert proposal.replicas == size
    assert ("dead band" in proposal.guards) is (count == 3.01)
    assert ("tolerance of 5%" in proposal.guards) is (count == 4.2)


def test_an_idle_pool_shrinks_whatever_its_objective() -> None:
    run = Run(replace(SPEC, tpot=Objective(0.9, 0.01)), desired=3).see(50, times=20)
    assert run.see(0, times=40, decode_share=Signal(0)).size == 1


def pools_of_two_kinds(**changes: Any) -> ScalingSpec:
    cheap = PoolBounds("cheap", Role.UNIFIED, minimum=0, maximum=3, cost=1.0)
    dear = PoolBounds("dear", Role.UNIFIED, minimum=0, maximum=9, cost=3.0)
    return replace(SPEC, pools=(replace(cheap, **changes), dear))


def sizes_of_two(spec: ScalingSpec, rate: float) -> dict[str, int]:
    """Return the sizes of two pools that share the work of 20/s for half an hour."""
    state, sizes = ScalingState(), {"cheap": 1, "dear": 1}
    for tick in range(120):
        view = seen(rate, 1).pools["default"]
        half: dict[str, Any] = {
            name: Signal((getattr(view, name).value or 0.0) / 2)
            for name in ("running", "waiting_tokens", "waiting", "kv_tokens", "decode_share")
        }
        pools = {
            name: replace(view, desired=size, ready=size, **half) for name, size in sizes.items()
        }
        state, found = decide(state, Observation(seen(rate, 1).traffic, pools), spec, 15.0 * tick)
        sizes |= {name: decision.replicas for name, decision in found.pools.items()}
    return sizes


def test_the_cheaper_pool_carries_what_it_can_and_the_dear_one_the_rest() -> None:
    assert sizes_of_two(pools_of_two_kinds(), 10) == {"cheap": 2, "dear": 0}
    assert sizes_of_two(pools_of_two_kinds(), 40) == {"cheap": 3, "dear": 4}


def test_a_pool_of_fixed_size_carries_its_part_and_is_left_alone() -> None:
    spec = pools_of_two_kinds()
    fixed = replace(spec.pools[0], minimum=1, maximum=1, fixed=True)
    assert sizes_of_two(replace(spec, pools=(fixed, spec.pools[1])), 20) == {"cheap": 1, "dear": 3}


def test_concurrency_counts_sequences_and_needs_no_curve() -> None:
    bounds = replace(SPEC.pools[0], slots=10)
    spec = replace(SPEC, policy=ScalingPolicy.CONCURRENCY, pools=(bounds,))
    run = Run(spec)
    state = ScalingState()
    for tick in range(80):
        view = replace(seen(4, run.size).pools["default"], curve=None)
        found = Observation(seen(4, run.size).traffic, {"default": view})
        state, decisions = decide(state, found, spec, 15.0 * tick)
        run.size = decisions.pools["default"].replicas
    # 32 sequences of 10 a replica, planned to fill 70 %: 4.57.
    assert run.size == 5
    assert decisions.pools["default"].need is not None
    assert decisions.pools["default"].need.binding == "concurrency"


FAULTS = {
    "gone": ABSENT,
    "NaN": Signal(nan),
    "Inf": Signal(inf),
    "negative": Signal(-5.0),
    "stale": Signal(0.0, age=300.0),
    "half the pods": Signal(0.0, coverage=0.5),
}
SIGNALS = ("arrivals", "uncached_tokens", "running", "kv_tokens", "decode_share", "waiting_tokens")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("rate", [5.0, 20.0, 40.0])
def test_no_fault_of_a_metric_shrinks_a_pool(fault: str, name: str, rate: float) -> None:
    run = Run().see(rate, times=60)
    before = run.size
    run.see(rate, times=60, **{name: FAULTS[fault]})
    assert min(run.sizes[60:]) >= before


@pytest.mark.parametrize("fault", FAULTS)
def test_all_metrics_broken_at_once_shrink_nothing(fault: str) -> None:
    run = Run().see(20, times=60)
    before = run.size
    run.see(20, times=100, **dict.fromkeys(SIGNALS, FAULTS[fault]))
    assert run.size >= before


@pytest.mark.parametrize("fault", FAULTS)
def test_growth_goes_on_while_gauges_of_workers_are_broken(fault: str) -> None:
    run = Run().see(5, times=60)
    before = run.size
    run.see(5, times=20, kv_tokens=FAULTS[fault], queued_tokens=Signal(3_000_000))
    assert run.size > before


@pytest.mark.parametrize("fault", FAULTS)
def test_true_idleness_reaches_the_minimum_after_any_fault(fault: str) -> None:
    run = Run().see(20, times=60).see(20, times=20, running=FAULTS[fault])
    run.see(0, times=600)
    assert run.size == 1


def test_a_restart_never_shrinks() -> None:
    run = Run(desired=9).see(1, times=12)
    assert run.sizes == [9] * 12, "nothing was seen for a whole window yet"
    assert run.see(1, times=100).size < 9


ZERO = replace(SPEC, idle=600.0, pools=(PoolBounds("default", Role.UNIFIED, 0, 40),))


def test_zero_needs_evidence_of_idleness_and_requests_in_the_queue_end_it() -> None:
    run = Run(ZERO, desired=2).see(5, times=20)
    assert run.see(0, times=39).size >= 1
    assert run.see(0, times=3).size == 0
    # With no worker there are no gauges of workers; the gateway's queue alone wakes the pool.
    gone = dict.fromkeys(("running", "kv_tokens", "decode_share", "waiting_tokens"), ABSENT)
    gone |= {"queued_requests": Signal(3), "queued_tokens": Signal(3000)}
    assert run.see(0.2, times=1, **gone).size >= 1


def test_missing_metrics_are_not_idleness() -> None:
    run = Run(ZERO, desired=2).see(5, times=20)
    assert run.see(0, times=400, arrivals=ABSENT).size == 2


POOLS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 4)), max_size=4)


@given(POOLS, st.integers(0, 40))
def test_the_budget_bounds_growth_and_takes_nothing_away(
    pools: list[tuple[int, int, int]], budget: int
) -> None:
    bounds = tuple(
        PoolBounds(f"p{i}", Role.UNIFIED, 0, 40, gpus) for i, (_, _, gpus) in enumerate(pools)
    )
    asked = {f"p{i}": Decision(f"p{i}", now, then, "") for i, (now, then, _) in enumerate(pools)}
    found = inside_budget(asked, ScalingSpec(bounds, max_gpus=budget))
    gpus = {b.name: b.gpus for b in bounds}
    for name, decision in found.items():
        low = min(asked[name].current, asked[name].replicas)
        assert low <= decision.replicas <= asked[name].replicas
    grew = any(
        d.replicas > min(asked[n].current, asked[n].replicas) and gpus[n] for n, d in found.items()
    )
    if grew:
        assert sum(d.replicas * gpus[n] for n, d in found.items()) <= budget


EMBEDDER = ServiceCurve(a=0.002, b_p=1e-5, b_d=0.0, c=0.0)


def test_what_only_computes_inputs_is_sized_by_its_prompts_alone() -> None:
    """λ·w = 200/s · 1,000 tokens · 10 µs: two replicas are busy, and none waits for a token."""
    bounds = (PoolBounds("default", Role.PREFILL, minimum=1, maximum=40),)
    spec = replace(SPEC, pools=bounds, ttft=Objective(0.99, 0.2), tpot=None)
    view = PoolView(
        desired=1,
        ready=1,
        running=Signal(3),
        waiting=Signal(0),
        waiting_tokens=Signal(0),
        kv_tokens=Signal(0),
        curve=EMBEDDER,
    )
    traffic = Traffic(
        arrivals=Signal(200),
        uncached_tokens=Signal(200_000),
        input_tokens=Signal(1000),
        output_tokens=Signal(0),
        queued_requests=Signal(0),
        queued_tokens=Signal(0),
    )
    _, found = decide(ScalingState(), Observation(traffic, {"default": view}), spec, 0.0)
    decision = found.pools["default"]
    assert decision.need is not None
    assert decision.need.numbers["prefill_work"] == pytest.approx(2.0)
    assert decision.need.numbers["decode_work"] == 0.0
    assert decision.need.binding == "ttft"
    assert 3 <= decision.replicas <= 5
