"""What a real vLLM 0.32.0 exported, read as the autoscaler reads it.

Recorded on a CPU, cut to what is read: after 9 requests, after 40 more in 15.7 s, and after another
69 in 16.6 s, twice as many a second with answers twice as long.
"""

from pathlib import Path

import pytest

from penstock_contract.step_cost import Totals
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.exposition import parse
from penstock_operator.autoscaling.learned import Steps
from penstock_operator.autoscaling.scrape import Scrape, ScrapePair
from penstock_operator.autoscaling.steps import kv_capacity, new_steps

RECORDED = Path(__file__).parent / "recorded"
TIMES = (0.0, 15.7, 32.3)


def recorded(number: int) -> Scrape:
    text = (RECORDED / f"vllm-0.32.0-{number}.txt").read_text()
    return parse(text, names.WORKER_FAMILIES, TIMES[number])


def intervals() -> list[ScrapePair]:
    return [ScrapePair(recorded(1), recorded(0)), ScrapePair(recorded(2), recorded(1))]


def test_everything_that_is_needed_is_there_under_its_present_name() -> None:
    for wanted in names.NEEDED:
        assert recorded(0).total(wanted[:1]) is not None


def test_its_kv_is_what_it_says_itself() -> None:
    assert kv_capacity(intervals()) == 349_440  # its own kv_cache_size_tokens


def test_its_steps_are_counted_and_timed_from_outside() -> None:
    _, found = new_steps(intervals()[:1])
    assert (found.steps, found.sequences) == (1386, 1600)
    assert found.prefill == 10_080 - 1_661 - 1_600
    between_tokens = 5.178 / 1560
    assert 1386 * between_tokens < found.seconds < 1386 * between_tokens + 0.55  # of prompts


def test_a_curve_is_fitted_that_agrees_with_what_was_measured() -> None:
    steps, measured = Steps(), 0.0
    for pair in intervals():
        rises, totals = new_steps([pair])
        steps = steps.after(rises, totals, pair.seconds)
        measured += totals.seconds
    curve = steps.curve(None, kv_capacity(intervals()))
    assert curve is not None
    prompts, answers = 18_249 / 109, 7_120 / 109
    work = 109 * (curve.prefill_work(prompts) + curve.decode_work(prompts, answers))
    assert 0.9 * work < measured < work + 4_860 * curve.a + 0.1 * measured


def test_steps_are_told_apart_from_sequences_and_prompts_though_load_was_low() -> None:
    """A sequence or two at a time: what is most of such a step is not what a sequence costs."""
    steps = Steps()
    for pair in intervals():
        steps = steps.after(*new_steps([pair]), pair.seconds)
    curve = steps.curve(None, kv_capacity(intervals()))
    assert curve is not None
    assert 0.5 * 0.0033 < curve.a < 1.5 * 0.0033
    assert curve.b_d < 0.1 * curve.a
    prompt = 1.386 / 69  # seconds of one, on the average of the second interval
    assert 0.3 * prompt < curve.a + curve.prefill_work(166) < 1.2 * prompt


def test_prompts_that_nothing_decodes_beside_take_their_time_though_no_gap_shows_it() -> None:
    """One request at a time, whose prompt takes most of it: 0.4 s, then 10 tokens of 20 ms."""
    counts = {
        "vllm:iteration_tokens_total_count": 11.0 * 20,
        "vllm:iteration_tokens_total_sum": (4000.0 + 11) * 20,
        "vllm:generation_tokens_total": 11.0 * 20,
        "vllm:inter_token_latency_seconds_count": 10.0 * 20,
        "vllm:inter_token_latency_seconds_sum": 0.02 * 10 * 20,
        "vllm:request_prefill_time_seconds_count": 20.0,
        "vllm:request_prefill_time_seconds_sum": 0.4 * 20,
        "vllm:request_prefill_kv_computed_tokens_sum": 4000.0 * 20,
        "vllm:kv_cache_usage_perc": 0.0,
    }
    pair = counted(60.0, counts)
    steps = Steps().after(*new_steps([pair]), 60.0)
    curve = steps.curve(None, 1e6)
    assert curve is not None
    assert curve.prefill_work(4000) == pytest.approx(0.38, rel=0.15)
    assert curve.a == pytest.approx(0.02, rel=0.15)


def test_no_noise_makes_sequences_or_prompts_free() -> None:
    """Steps that took less where more was in them, as on a machine that others use, too."""
    steps = Steps()
    for busy, gap in ((1.0, 0.03), (4.0, 0.02)):
        seconds = 60.0
        count = seconds / gap
        prompts = busy * count / 300
        counts = {
            "vllm:iteration_tokens_total_count": count,
            "vllm:iteration_tokens_total_sum": busy * count + 500 * prompts,
            "vllm:generation_tokens_total": busy * count,
            "vllm:inter_token_latency_seconds_count": busy * count,
            "vllm:inter_token_latency_seconds_sum": busy * seconds,
            "vllm:request_prefill_time_seconds_count": prompts,
            "vllm:request_prefill_time_seconds_sum": prompts * gap,
            "vllm:request_prefill_kv_computed_tokens_sum": 500 * prompts,
            "vllm:kv_cache_usage_perc": 0.0,
        }
        steps = steps.after(*new_steps([counted(seconds, counts)]), seconds)
    curve = steps.curve(None, 1e6)
    assert curve is not None
    assert min(curve.a, curve.b_p, curve.b_d, curve.c) > 0
    assert curve.a < 0.03


def counted(seconds: float, counts: dict[str, float]) -> ScrapePair:
    """Return two scrapes so many seconds apart, between which this was counted."""
    labels = frozenset({"engine": "0", "model_name": "m"}.items())
    now = Scrape(seconds, {(name, labels): value for name, value in counts.items()})
    return ScrapePair(now, Scrape(0.0, dict.fromkeys(now.values, 0.0)))


def test_a_step_of_a_model_that_embeds_is_what_a_request_takes() -> None:
    """Counts of a bert with 33 million parameters, one after the other on a busy machine."""
    counts = {
        "vllm:iteration_tokens_total_count": 80.0,
        "vllm:iteration_tokens_total_sum": 8273.0,
        "vllm:generation_tokens_total": 0.0,
        "vllm:inter_token_latency_seconds_count": 0.0,
        "vllm:inter_token_latency_seconds_sum": 0.0,
        "vllm:request_prefill_time_seconds_count": 91.0,
        "vllm:request_prefill_time_seconds_sum": 22.870600598922465,
        "vllm:kv_cache_usage_perc": 0.0,
    }
    _, found = new_steps([counted(10.0, counts)])
    assert found.seconds == pytest.approx(80 * 22.87 / 91, rel=1e-3)
    assert found == Totals(80.0, found.seconds, prefill=8273.0)
