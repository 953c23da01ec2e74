"""Prefill pools grow no further than the decode pools can follow."""

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api import Role
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.need import Need
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.ratio import carried, matched
from penstock_operator.scaling.signal import Signal
from penstock_operator.scaling.spec import PoolBounds, ScalingSpec
from penstock_operator.scaling.split import Carrier
from penstock_operator.scaling.state import ScalingState

sizes = st.integers(0, 40)
needs = st.floats(0.0, 40.0)


def decision(name: str, current: int, replicas: int, needed: float) -> Decision:
    need = Need(ceil(needed), "x", {"x": needed}, {})
    return Decision(name, current, replicas, "x needs it", need)


def carrier(name: str, alone: float, minimum: int = 0) -> Carrier:
    return Carrier(name, alone, minimum, maximum=40, cost=1.0)


def pair(
    prefill: Decision, decode: Decision, alone: float, minimum: int = 0
) -> tuple[dict[str, Decision], dict[Role, list[Carrier]]]:
    """Return the decisions about a Prefill and a Decode pool, and who carries what."""
    carriers = {
        Role.PREFILL: [carrier("p", 1.0, minimum)],
        Role.DECODE: [carrier("d", alone)],
    }
    return {"p": prefill, "d": decode}, carriers


@given(sizes, sizes, needs, sizes, sizes, needs, sizes)
def test_only_growth_of_prefill_is_cut_and_never_below_what_runs(
    now: int, wanted: int, needed: float, current: int, size: int, alone: float, minimum: int
) -> None:
    decode = decision("d", current, size, alone)
    found, carriers = pair(decision("p", now, wanted, needed), decode, alone, minimum)
    after = matched(found, carriers)
    assert after["d"] == decode
    assert min(wanted, max(now, minimum)) <= after["p"].replicas <= wanted
    cut = after["p"].replicas < wanted
    assert cut == (after["p"].guards != ())
    if cut:
        assert after["p"].replicas == max(now, minimum, ceil(size / alone * needed - 1e-9))


@given(sizes, sizes, needs, needs)
def test_who_can_decode_everything_holds_nobody_back(
    now: int, wanted: int, needed: float, alone: float
) -> None:
    decode = decision("d", 0, ceil(alone), alone)
    found, carriers = pair(decision("p", now, wanted, needed), decode, alone)
    assert matched(found, carriers) == found


@given(sizes, sizes, needs, sizes, sizes, needs)
def test_more_decode_workers_never_mean_fewer_prefill_workers(
    now: int, wanted: int, needed: float, size: int, more: int, alone: float
) -> None:
    prefill = decision("p", now, wanted, needed)
    few, many = (
        matched(*pair(prefill, decision("d", 0, count, alone), alone))["p"].replicas
        for count in (size, size + more)
    )
    assert few <= many


@given(sizes, sizes, needs, sizes, needs)
def test_cutting_twice_is_cutting_once(
    now: int, wanted: int, needed: float, size: int, alone: float
) -> None:
    prefill, decode = decision("p", now, wanted, needed), decision("d", 0, size, alone)
    found, carriers = pair(prefill, decode, alone)
    once = matched(found, carriers)
    again = {name: replace(each, guards=()) for name, each in matched(once, carriers).items()}
    assert again == {name: replace(each, guards=()) for name, each in once.items()}


def test_pools_of_one_role_carry_together_and_one_of_fixed_size_with_them() -> None:
    carriers = [carrier("cheap", 10.0), carrier("dear", 5.0, minimum=2)]
    assert carried({"cheap": decision("cheap", 1, 3, 3.0)}, carriers) == pytest.approx(0.7)
    assert carried({}, []) == 1.0


CURVE = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)


def grown(decode: PoolBounds, budget: int | None = None) -> tuple[dict[str, int], Decision]:
    """Return what 40 requests per second of 1,000 tokens in and 200 out come to."""
    prefill = PoolBounds("p", Role.PREFILL, minimum=1, maximum=40, gpus=1)
    spec = ScalingSpec((prefill, decode), up_window=0.0, max_up=40, max_gpus=budget)
    traffic = Traffic(
        arrivals=Signal(40.0),
        uncached_tokens=Signal(40_000.0),
        input_tokens=Signal(1000.0),
        output_tokens=Signal(200.0),
        queued_requests=Signal(0.0),
        queued_tokens=Signal(0.0),
    )
    state, desired = ScalingState(), {"p": 1, "d": 1}
    for tick in range(80):
        quiet = PoolView(
            desired=0, ready=1, running=Signal(0), waiting=Signal(0), waiting_tokens=Signal(0),
            kv_tokens=Signal(0), decode_share=Signal(0), curve=CURVE,
        )  # fmt: skip
        views = {name: replace(quiet, desired=size) for name, size in desired.items()}
        state, decisions = decide(state, Observation(traffic, views), spec, 15.0 * tick)
        desired |= {name: each.replicas for name, each in decisions.pools.items()}
    return desired, decisions.pools["p"]


def test_a_decode_pool_at_its_bound_stops_the_growth_of_prefill() -> None:
    free, _ = grown(PoolBounds("d", Role.DECODE, minimum=1, maximum=40))
    bound, prefill = grown(PoolBounds("d", Role.DECODE, minimum=1, maximum=1))
    assert free["d"] > 1
    assert bound["d"] == 1
    assert bound["p"] < free["p"]
    assert any("decode can take" in guard for guard in prefill.guards)


def test_gpus_that_decode_workers_cannot_use_are_not_spent_on_prefill() -> None:
    wide = PoolBounds("d", Role.DECODE, minimum=1, maximum=40, gpus=8)
    desired, _ = grown(wide, budget=15)  # six are left over: too few for another decode worker
    free, _ = grown(wide)
    assert desired["d"] == 1
    assert desired["p"] < 7 <= free["p"] + 2
