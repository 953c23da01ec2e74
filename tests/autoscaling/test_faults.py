"""Broken metrics: nothing shrinks because of a fault, and whoever is truly idle still shrinks.

Every fault strikes a fleet whose demand rises, is flat, falls, or ends, while the autoscaler sees
scrapes of metrics only.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, nan

import pytest
from exported import GATEWAY, Exported

from penstock_contract.api import Role
from penstock_operator.autoscaling.evaluation import Memory, evaluate
from penstock_operator.autoscaling.scrape import Scrape
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec

Scrapes = Mapping[str, Scrape]
Fault = Callable[[Scrapes, int], Scrapes]
INTERVAL = 15.0
SPEC = ScalingSpec(
    pools=(PoolBounds("default", Role.UNIFIED, minimum=1, maximum=40),),
    ttft=Objective(0.99, 2.0),
    tpot=Objective(0.99, 0.1),
    up_window=0.0,
    max_up=8,
    down_window=60.0,
)


def everywhere(change: Callable[[float], float]) -> Fault:
    """Return a fault that changes every value."""
    return lambda scrapes, _: {
        target: Scrape(scrape.time, {series: change(v) for series, v in scrape.values.items()})
        for target, scrape in scrapes.items()
    }


def only(target: str, fault: Fault) -> Fault:
    """Return a fault of one target."""
    return lambda scrapes, tick: {**scrapes, **fault({target: scrapes[target]}, tick)}


def gone(_scrapes: Scrapes, _tick: int) -> Scrapes:
    return {}


def half(scrapes: Scrapes, _tick: int) -> Scrapes:
    workers = sorted(target for target in scrapes if target != GATEWAY)
    return {
        t: scrape for t, scrape in scrapes.items() if t not in workers[: (len(workers) + 1) // 2]
    }


def no_gateway(scrapes: Scrapes, _tick: int) -> Scrapes:
    return {target: scrape for target, scrape in scrapes.items() if target != GATEWAY}


def lag(scrapes: Scrapes, _tick: int) -> Scrapes:
    """Everything is an hour old."""
    return {target: replace(scrape, time=scrape.time - 3600) for target, scrape in scrapes.items()}


def future(scrapes: Scrapes, _tick: int) -> Scrapes:
    return {target: replace(scrape, time=scrape.time + 3600) for target, scrape in scrapes.items()}


def frozen_time(scrapes: Scrapes, _tick: int) -> Scrapes:
    """The same scrape again and again: Prometheus does not scrape any more."""
    return {target: replace(scrape, time=1_000_000.0) for target, scrape in scrapes.items()}


def without(*parts: str) -> Fault:
    """Return a fault that loses series."""
    return lambda scrapes, _: {
        target: Scrape(
            scrape.time,
            {s: v for s, v in scrape.values.items() if not any(part in s[0] for part in parts)},
        )
        for target, scrape in scrapes.items()
    }


FAULTS: dict[str, Fault] = {
    "everything gone": gone,
    "NaN": everywhere(lambda _: nan),
    "infinite": everywhere(lambda _: inf),
    "negative": everywhere(lambda value: -value - 1),
    "half of the workers missing": half,
    "no gateway": no_gateway,
    "an hour late": lag,
    "an hour early": future,
    "frozen": frozen_time,
    "no arrivals counter": without("arrivals"),
    "no queue": without("queued"),
    "no running sequences": without("running"),
    "no KV usage": without("kv_cache_usage"),
    "one worker NaN": only("worker-1", everywhere(lambda _: nan)),
    "one gateway NaN": only(GATEWAY, everywhere(lambda _: nan)),
}


class Live:
    """A fleet whose size follows the decisions."""

    def __init__(self, rate: float, workers: int) -> None:
        self.fleet = Exported([f"worker-{number + 1}" for number in range(workers)], rate=rate)
        self.memory = Memory()
        self.tick = 0

    def run(self, ticks: int, growth: float = 1.0, fault: Fault | None = None) -> list[int]:
        """Decide some times; return the sizes."""
        sizes = []
        for _ in range(ticks):
            self.tick += 1
            self.fleet.rate *= growth
            self.fleet.pass_time(INTERVAL)
            scrapes: Scrapes = self.fleet.scrapes()
            if fault is not None:
                scrapes = fault(scrapes, self.tick)
            self.memory, evaluation = evaluate(
                self.memory, self.fleet.topology(), scrapes, SPEC, self.fleet.time
            )
            size = evaluation.record.decisions.pools["default"].replicas
            self.fleet.workers = [f"worker-{number + 1}" for number in range(size)]
            sizes.append(size)
        return sizes


@pytest.fixture(scope="module")
def settled() -> tuple[Memory, Exported, int]:
    live = Live(rate=20.0, workers=4)
    live.run(60)
    return live.memory, live.fleet, live.tick


def again(settled: tuple[Memory, Exported, int]) -> Live:
    memory, fleet, tick = settled
    live = Live(0.0, 1)
    live.memory, live.tick = memory, tick
    live.fleet = replace(
        fleet,
        workers=list(fleet.workers),
        served=dict(fleet.served),
        moments={w: type(m)(dict(m.sums)) for w, m in fleet.moments.items()},
        totals=dict(fleet.totals),
    )
    return live


def test_a_healthy_fleet_settles_at_little_s_law(settled: tuple[Memory, Exported, int]) -> None:
    # 20/s of 0.142 replica-seconds each, TPOT allows 85 %: 3.34 (docs/autoscaling.md).
    assert len(settled[1].workers) == 4


@pytest.mark.parametrize("growth", [1.05, 1.0, 0.9], ids=["rising", "flat", "falling"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_no_fault_shrinks_anything(
    settled: tuple[Memory, Exported, int], fault: Fault, growth: float
) -> None:
    live = again(settled)
    before = len(live.fleet.workers)
    sizes = live.run(20, growth, fault)
    assert all(later >= earlier for earlier, later in zip([before, *sizes], sizes, strict=False))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_after_a_fault_idleness_is_seen(
    settled: tuple[Memory, Exported, int], fault: Fault
) -> None:
    live = again(settled)
    live.fleet.rate = 0.0
    held = live.run(8, fault=fault)
    assert min(held) >= 4, "a fault is no idleness"
    assert live.run(80)[-1] == 1


def test_true_idleness_reaches_the_minimum(settled: tuple[Memory, Exported, int]) -> None:
    live = again(settled)
    live.fleet.rate = 0.0
    assert live.run(80)[-1] == 1


@pytest.mark.parametrize("growth", [1.05, 1.0], ids=["rising", "flat"])
def test_restarting_workers_shrink_nothing(
    settled: tuple[Memory, Exported, int], growth: float
) -> None:
    """Counters start from 0 again, and count on."""
    live = again(settled)
    for _ in range(5):
        live.fleet.served.clear()
        live.fleet.moments.clear()
        live.fleet.arrivals = live.fleet.duration = 0.0
        assert min(live.run(3, growth)) >= 4


def test_ghosts_count_for_nothing(settled: tuple[Memory, Exported, int]) -> None:
    """Series of pods that are gone stay in Prometheus for minutes."""
    live = again(settled)
    ghost = live.fleet.worker("worker-1")

    def haunted(scrapes: Scrapes, _: int) -> Scrapes:
        return {**scrapes, "worker-99": ghost, "worker-98": ghost}

    assert set(live.run(20, fault=haunted)) == {4}


def test_growth_rests_on_what_is_surely_there(settled: tuple[Memory, Exported, int]) -> None:
    """With half of the workers silent, a queue and arrivals still are evidence enough to grow."""
    live = again(settled)
    assert max(live.run(30, 1.05, half)) > 4


def test_the_law_holds_for_sound_metrics_and_not_for_wrong_ones() -> None:
    live = Live(rate=20.0, workers=4)
    live.run(30)
    difference = live.memory.law.difference
    assert difference is not None
    assert difference < 0.05

    def halved(scrapes: Scrapes, _: int) -> Scrapes:
        scrape = scrapes[GATEWAY]
        values = {
            series: value / 2 if "in_flight" in series[0] else value
            for series, value in scrape.values.items()
        }
        return {**scrapes, GATEWAY: Scrape(scrape.time, values)}

    live.run(60, fault=halved)
    difference = live.memory.law.difference
    assert difference is not None
    assert difference > 0.3
