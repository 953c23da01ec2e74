"""Scrapes, signals and what is learned from them."""

from math import inf, isnan

import pytest
from exported import COST, GATEWAY, MODEL, Exported
from prometheus_client import CollectorRegistry, generate_latest

from penstock_contract.instruments import Instruments
from penstock_contract.metrics import gateway, worker
from penstock_contract.step_cost import StepMoments, fit
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.evaluation import Memory, evaluate
from penstock_operator.autoscaling.exposition import parse
from penstock_operator.autoscaling.gather import gather, late_share, level, rate
from penstock_operator.autoscaling.learned import Mean, Steps
from penstock_operator.autoscaling.scrape import Scrape, ScrapePair, label
from penstock_operator.autoscaling.steps import kv_capacity, new_steps
from penstock_operator.scaling.signal import Health
from penstock_operator.scaling.spec import ScalingSpec

NONE: frozenset[tuple[str, str]] = frozenset()


def scrapes(*values: dict[str, float], step: float = 10.0) -> ScrapePair:
    """Return the pair of the last two of some scrapes, `step` seconds apart."""
    pair: ScrapePair | None = None
    for number, value in enumerate(values):
        new = Scrape(number * step, {(name, NONE): v for name, v in value.items()})
        pair = pair.advanced(new) if pair else ScrapePair(new)
    assert pair is not None
    return pair


def test_what_processes_export_is_read_back() -> None:
    registry = CollectorRegistry()
    made = Instruments(registry, gateway.GATEWAY)
    made.counter(gateway.GATEWAY_ARRIVALS).labels("a").inc(3)
    made.histogram(gateway.GATEWAY_QUEUE_SECONDS).labels("a").observe(0.4)
    found = parse(generate_latest(registry).decode(), names.GATEWAY_FAMILIES, 5.0)
    assert found.time == 5.0
    assert found.total(names.ARRIVALS, label(model="a")) == 3
    assert found.total([names.QUEUE_SECONDS + "_count"]) == 1
    assert not any("refusals" in name for name, _ in found.values)


def test_a_histogram_whose_name_ends_like_a_counter_is_read() -> None:
    registry = CollectorRegistry()
    made = Instruments(registry, worker.WORKER)
    made.histogram(worker.VLLM_STEP_TOKENS).labels("m", "0").observe(17)
    found = parse(generate_latest(registry).decode(), names.WORKER_FAMILIES, 0.0)
    assert found.total(names.STEP_TOKENS) == 17
    assert found.total(names.STEPS) == 1


def test_a_worker_that_keeps_no_kv_has_a_curve_and_holds_any_number() -> None:
    shape = frozenset({"block_size": "16", "num_gpu_blocks": "0"}.items())
    pair = ScrapePair(Scrape(0.0, {("vllm:cache_config_info", shape): 1.0}))
    assert kv_capacity([pair]) == inf
    sums = StepMoments()
    for tokens in (100, 2000, 500, 1500):
        sums.add(0.002 + 1e-5 * tokens, tokens, 0, 0)
    curve = Steps().curve(fit(sums.sums), kv_capacity([pair]))
    assert curve is not None
    assert curve.prefill_work(1000) == pytest.approx(0.01, rel=0.05)
    assert curve.decode_work(1000, 0) == 0.0


def test_the_old_name_is_taken_where_the_new_one_is_missing() -> None:
    old = Scrape(0.0, {("vllm:gpu_cache_usage_perc", NONE): 0.5})
    assert old.total(names.KV_USAGE) == 0.5
    both = Scrape(0.0, {**old.values, ("vllm:kv_cache_usage_perc", NONE): 0.7})
    assert both.total(names.KV_USAGE) == 0.7


def test_a_counter_that_fell_rose_by_its_new_value() -> None:
    assert scrapes({"c": 100.0}, {"c": 103.0}).increase(["c"]) == 3
    assert scrapes({"c": 100.0}, {"c": 4.0}).increase(["c"]) == 4


def test_a_new_target_has_no_rate_and_an_old_page_changes_nothing() -> None:
    new = ScrapePair(Scrape(10.0, {("c", NONE): 5.0}))
    assert new.increase(["c"]) is None
    assert new.advanced(Scrape(9.0)) is new
    assert new.advanced(Scrape(10.0)) is new


def test_a_series_that_appears_rose_from_nothing() -> None:
    assert scrapes({}, {"c": 2.0}).increase(["c"]) == 2


def test_signals_tell_age_and_coverage() -> None:
    fresh, older = scrapes({"g": 1.0}, {"g": 2.0}), scrapes({"g": 3.0})
    signal = gather([fresh, older, None], level(["g"], NONE), now=12.0)
    assert (signal.value, signal.age) == (5.0, 12.0)
    assert signal.coverage == pytest.approx(2 / 3)
    assert signal.health is Health.PARTIAL


def test_a_target_that_fell_silent_does_not_age_the_others() -> None:
    silent = ScrapePair(Scrape(0.0, {("g", NONE): 9.0}))
    fresh = [ScrapePair(Scrape(100.0, {("g", NONE): 1.0})) for _ in range(9)]
    signal = gather([silent, *fresh], level(["g"], NONE), now=101.0)
    assert (signal.value, signal.age, signal.coverage) == (9.0, 1.0, 0.9)
    assert signal.fresh


def test_nobody_is_absent_and_an_impossible_value_is_invalid() -> None:
    assert gather([], level(["g"], NONE), 0.0).health is Health.ABSENT
    assert gather([scrapes({})], level(["g"], NONE), 0.0).health is Health.ABSENT
    wrong = gather([scrapes({"g": -1.0}), scrapes({"g": 5.0})], level(["g"], NONE), 0.0)
    assert wrong.health is Health.INVALID


def test_a_rate_is_over_the_time_between_pages_not_between_looks() -> None:
    pair = scrapes({"c": 0.0}, {"c": 30.0}, step=15.0)
    assert gather([pair], rate(["c"], NONE), now=20.0).value == 2.0


def histogram(counts: dict[str, float]) -> ScrapePair:
    new = {("h_bucket", frozenset({("le", edge)})): count for edge, count in counts.items()}
    return ScrapePair(Scrape(10.0, new), Scrape(0.0, dict.fromkeys(new, 0.0)))


@pytest.mark.parametrize(
    ("limit", "late"), [(1.0, 0.5), (2.0, 0.2), (1.5, 0.35), (5.0, 0.2), (0.5, 0.75)]
)
def test_the_late_share_is_read_between_the_buckets(limit: float, late: float) -> None:
    pair = histogram({"1.0": 50, "2.0": 80, "+Inf": 100})
    assert late_share([pair], "h", NONE, limit).value == pytest.approx(late)


def test_nothing_ended_is_no_share() -> None:
    assert late_share([histogram({"1.0": 0, "+Inf": 0})], "h", NONE, 1.0).value is None
    assert late_share([None], "h", NONE, 1.0).value is None


def test_means_follow_the_latest_requests() -> None:
    mean = Mean()
    assert mean.known is None
    mean = mean.after(1000.0, 10.0)
    assert mean.known == 100
    for _ in range(200):
        mean = mean.after(2000.0, 10.0)
    assert mean.known == pytest.approx(200, rel=0.05)
    assert mean.after(float("nan"), 1.0) == mean
    assert mean.after(None, 1.0) == mean


def test_fully_cached_prompts_have_nothing_to_compute() -> None:
    assert Mean().after(0.0, 5.0).known == 0.0


def test_the_cost_of_steps_is_found() -> None:
    live = Exported(rate=20.0)
    live.pass_time(60.0)
    before = live.scrapes()
    live.pass_time(60.0)
    pair = ScrapePair(live.scrapes()["worker-1"], before["worker-1"])
    steps = Steps().after(*new_steps([pair]), 60.0)
    curve = steps.curve(None, 400_000.0)
    assert curve is not None
    assert curve.a == pytest.approx(COST.step, rel=1e-3)
    assert curve.b_p == pytest.approx(COST.prefill_token, rel=1e-3)
    assert curve.b_d == pytest.approx(COST.sequence, rel=1e-2)
    assert curve.c == pytest.approx(COST.kv_token, rel=1e-2)


def test_without_steps_what_the_workers_measured_themselves_is_believed() -> None:
    live = Exported()
    memory = Memory()
    for _ in range(2):
        live.pass_time(10.0)
        memory, evaluation = evaluate(
            memory, live.topology(), live.scrapes(), ScalingSpec(()), live.time
        )
    curve = evaluation.record.seen.pools["default"].curve
    assert curve is not None
    assert (curve.a, curve.b_p) == pytest.approx((COST.step, COST.prefill_token))
    assert curve.kv_tokens == 400_000


def test_observations_are_what_the_fleet_does() -> None:
    live = Exported(rate=20.0)
    memory = Memory()
    for _ in range(3):
        live.pass_time(10.0)
        memory, evaluation = evaluate(
            memory, live.topology(), live.scrapes(), ScalingSpec(()), live.time
        )
    traffic, pool = evaluation.record.seen.traffic, evaluation.record.seen.pools["default"]
    assert traffic.arrivals.value == pytest.approx(20)
    assert traffic.uncached_tokens.value == pytest.approx(20_000)
    assert traffic.input_tokens.value == pytest.approx(1000)
    assert traffic.output_tokens.value == pytest.approx(200)
    assert pool.running.value == pytest.approx(80)
    assert pool.kv_tokens.value == pytest.approx(80 * 1100)
    assert traffic.queued_requests.value == 0


def test_the_share_of_batches_is_what_the_gateways_say() -> None:
    live = Exported(rate=20.0)
    live.pass_time(10.0)
    assert _spare_share(live, live.scrapes()) is None
    found = live.scrapes()
    own = found[GATEWAY].total(names.IN_FLIGHT, NONE)
    assert own is not None
    for spare, share in ((0.0, 0.0), (own, 0.5), (3 * own, 0.75)):
        series = {
            **found[GATEWAY].values,
            (names.SPARE_IN_FLIGHT[0], frozenset({("model", MODEL)})): spare,
            (names.SPARE_IN_FLIGHT[0], frozenset({("model", "another")})): 99.0,
        }
        scrapes = {**found, GATEWAY: Scrape(live.time, series)}
        assert _spare_share(live, scrapes) == pytest.approx(share)


def _spare_share(live: Exported, scrapes: dict[str, Scrape]) -> float | None:
    _, evaluation = evaluate(Memory(), live.topology(), scrapes, ScalingSpec(()), live.time)
    return evaluation.record.seen.traffic.spare_share.value


def test_a_worker_without_the_metrics_is_named() -> None:
    live = Exported(rate=1.0)
    live.pass_time(10.0)
    found = {**live.scrapes(), "worker-2": Scrape(live.time, {("vllm:something_else", NONE): 1.0})}
    _, evaluation = evaluate(Memory(), live.topology(), found, ScalingSpec(()), live.time)
    assert evaluation.problems
    assert all("worker-2 exports none of vllm:" in problem for problem in evaluation.problems)
    assert any("vllm:gpu_cache_usage_perc" in problem for problem in evaluation.problems)


def test_other_models_of_the_same_gateway_do_not_count() -> None:
    live = Exported(rate=5.0)
    memory = Memory()
    for _ in range(2):
        live.pass_time(10.0)
        read = live.scrapes()
        other = ("penstock_gateway_arrivals_total", frozenset({("model", "other")}))
        gateway = Scrape(live.time, {**read[GATEWAY].values, other: live.time})
        read = {**read, GATEWAY: gateway}
        memory, evaluation = evaluate(memory, live.topology(), read, ScalingSpec(()), live.time)
    assert evaluation.record.seen.traffic.arrivals.value == pytest.approx(5)
    assert MODEL != "other"


def test_what_cannot_be_added_up_is_not_a_number() -> None:
    assert isnan(Scrape(0.0, {("g", NONE): float("inf")}).total(["g"]) or 0.0)
