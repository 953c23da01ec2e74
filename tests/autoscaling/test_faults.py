"""Broken metrics: nothing shrinks because of a fault, and whoever is truly idle still shrinks.

Every fault strikes a fleet whose demand rises, is flat, falls, or ends, while the autoscaler sees
pages of metrics only.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, nan

import pytest
from exported import GATEWAY, Exported

from penstock_contract.api import Role
from penstock_operator.autoscaling.brain import Memory, think
from penstock_operator.autoscaling.page import Page
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec

Pages = Mapping[str, Page]
Fault = Callable[[Pages, int], Pages]
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
    return lambda pages, _: {
        target: Page(page.time, {series: change(v) for series, v in page.values.items()})
        for target, page in pages.items()
    }


def only(target: str, fault: Fault) -> Fault:
    """Return a fault of one target."""
    return lambda pages, tick: {**pages, **fault({target: pages[target]}, tick)}


def gone(_pages: Pages, _tick: int) -> Pages:
    return {}


def half(pages: Pages, _tick: int) -> Pages:
    workers = sorted(target for target in pages if target != GATEWAY)
    return {t: page for t, page in pages.items() if t not in workers[: (len(workers) + 1) // 2]}


def no_gateway(pages: Pages, _tick: int) -> Pages:
    return {target: page for target, page in pages.items() if target != GATEWAY}


def lag(pages: Pages, _tick: int) -> Pages:
    """Everything is an hour old."""
    return {target: replace(page, time=page.time - 3600) for target, page in pages.items()}


def future(pages: Pages, _tick: int) -> Pages:
    return {target: replace(page, time=page.time + 3600) for target, page in pages.items()}


def frozen_time(pages: Pages, _tick: int) -> Pages:
    """The same page again and again: Prometheus does not scrape any more."""
    return {target: replace(page, time=1_000_000.0) for target, page in pages.items()}


def without(*parts: str) -> Fault:
    """Return a fault that loses series."""
    return lambda pages, _: {
        target: Page(
            page.time,
            {s: v for s, v in page.values.items() if not any(part in s[0] for part in parts)},
        )
        for target, page in pages.items()
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
            pages: Pages = self.fleet.pages()
            if fault is not None:
                pages = fault(pages, self.tick)
            self.memory, thought = think(
                self.memory, self.fleet.scene(), pages, SPEC, self.fleet.time
            )
            size = thought.record.decisions.pools["default"].replicas
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

    def haunted(pages: Pages, _: int) -> Pages:
        return {**pages, "worker-99": ghost, "worker-98": ghost}

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

    def halved(pages: Pages, _: int) -> Pages:
        page = pages[GATEWAY]
        values = {
            series: value / 2 if "in_flight" in series[0] else value
            for series, value in page.values.items()
        }
        return {**pages, GATEWAY: Page(page.time, values)}

    live.run(60, fault=halved)
    difference = live.memory.law.difference
    assert difference is not None
    assert difference > 0.3
