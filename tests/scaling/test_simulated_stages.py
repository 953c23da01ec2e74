"""Prefill and decode pools in the simulator, against the laws of queues that they come to."""

import random
from math import ceil
from statistics import mean, pvariance

import pytest

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.clairvoyant import begin, search_stages
from penstock_operator.simulation.fleet import Stages
from penstock_operator.simulation.replica import Job
from penstock_operator.simulation.setup import Outcome, Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate

NOTHING = 1e-12
REAL = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)


def poisson(rate: float, seconds: float, given: int, taken: int, *, spread: bool) -> list[Arrival]:
    """Return Poisson arrivals; with spread, lengths are exponential around their means."""
    draw = random.Random(7)
    found, time = [], 0.0

    def length(mean: int) -> int:
        return max(1, round(draw.expovariate(1 / mean))) if spread else mean

    while (time := time + draw.expovariate(rate)) < seconds:
        found.append(Arrival(time, length(given) if given > 1 else 1, length(taken)))
    return found


def run(setup: Setup, trace: list[Arrival], *replicas: int) -> tuple[Outcome, Outcome]:
    """Return what Prefill and Decode pools of fixed sizes did."""
    prefill, decode = Stages([setup, setup], replicas).run(trace, lambda _: replicas)
    return prefill, decode


@pytest.mark.parametrize("spread", [True, False], ids=["M/M/1", "M/D/1"])
@pytest.mark.parametrize("load", [0.4, 0.7, 0.85])
def test_prefill_alone_is_a_queue_with_one_server(load: float, spread: bool) -> None:
    # E[T] = E[S] + λ·E[S²] / 2(1 − ρ) (Pollaczek, 1930; Khinchine, 1932).
    curve = ServiceCurve(a=NOTHING, b_p=0.001, b_d=NOTHING, c=0.0)
    trace = poisson(load / 0.4, 12_000, 400, 2, spread=spread)
    # Nobody is late, so all are served in the order of their coming.
    setup = Setup(curve, ttft=1e9, chunk_tokens=16, max_sequences=100_000, interval=500)
    prefill, _ = run(setup, trace, 1, 1)
    served = [arrival.input_tokens * 0.001 for arrival in trace]
    rate = len(trace) / trace[-1].time
    busy = rate * mean(served)
    waits = rate * mean(s * s for s in served) / (2 * (1 - busy))
    measured = mean(job.finish - job.arrival for job in prefill.jobs)
    assert measured == pytest.approx(mean(served) + waits, rel=0.1)


def test_decode_alone_keeps_nobody_waiting() -> None:
    # M/G/∞: the number in the system is Poisson with mean λ·E[S], whatever the lengths.
    curve = ServiceCurve(a=0.01, b_p=NOTHING, b_d=NOTHING, c=0.0)
    trace = poisson(10, 4_000, 1, 200, spread=True)
    setup = Setup(curve, max_sequences=100_000, interval=1)
    _, decode = run(setup, trace, 1, 1)
    present = [sample.held for sample in decode.samples[60:-60]]
    offered = len(trace) / trace[-1].time * mean(a.output_tokens for a in trace) * curve.a
    assert mean(present) == pytest.approx(offered, rel=0.02)
    assert pvariance(present) == pytest.approx(offered, rel=0.2)


def test_little_s_law_holds_in_each_pool() -> None:
    setup = Setup(REAL, interval=1)
    trace = generate(Synthetic(seconds=3600, rate=8))
    prefill, decode = run(setup, trace, 2, 3)
    span = decode.samples[-1].time
    came = {
        id(then): job.finish + setup.pull + pulled(setup, then)
        for job in prefill.jobs
        if (then := job.then) is not None
    }
    for outcome, stays in (
        (prefill, [job.finish - job.arrival for job in prefill.jobs]),
        (decode, [job.finish - came[id(job)] for job in decode.jobs]),
    ):
        present = mean(sample.held + sample.queued for sample in outcome.samples)
        assert present == pytest.approx(len(trace) / span * mean(stays), rel=0.03)


def pulled(setup: Setup, job: Job) -> float:
    """Return the seconds that a prompt's whole blocks take on their way."""
    return setup.pull_token * ((job.input_tokens - 1) // 16 * 16)


def test_every_request_goes_through_both_pools_once_whatever_their_sizes() -> None:
    trace = generate(Synthetic(seconds=900, rate=8))
    draw = random.Random(5)
    stages = Stages([Setup(REAL, cold_start=20)] * 2, [1, 1])
    prefill, decode = stages.run(trace, lambda _: [draw.randint(1, 5), draw.randint(1, 5)])
    assert len(prefill.jobs) == len(decode.jobs) == len(trace)
    for job in prefill.jobs:
        whole = job.then
        assert whole is not None
        assert job.arrival == whole.arrival < job.finish < whole.first_token <= whole.finish
        assert job.computed == job.input_tokens == whole.computed
    assert sum(job.output_tokens for job in decode.jobs) == sum(a.output_tokens for a in trace)


def test_only_the_last_partial_block_is_computed_where_it_decodes() -> None:
    trace = [Arrival(float(i), 1000, 900) for i in range(50)]
    prefill, decode = run(Setup(REAL), trace, 1, 1)
    assert prefill.samples[-1].prefill_tokens == 50 * 1000
    assert decode.samples[-1].prefill_tokens == 50 * (1000 - 992)


def test_a_prompt_never_stands_in_the_way_of_tokens() -> None:
    trace = [Arrival(0.0, 100, 2000)] + [Arrival(1.0 + i, 8000, 2) for i in range(20)]
    _, decode = run(Setup(REAL), trace, 1, 1)
    first = decode.jobs[0]
    assert (first.finish - first.first_token) / 1999 < 1.2 * REAL.step_seconds(0, 2, 10_000)


def test_perfect_foresight_sizes_each_pool_by_itself() -> None:
    # Prompts are nine tenths of the work, so most replicas are where they are computed.
    trace = [Arrival(i / 10, 2000 if i < 3000 else 500, 50) for i in range(6_000)]
    setup = Setup(REAL, metric_lag=0.0)
    best = search_stages(trace, [setup, setup], 0.99, rounds=5)
    assert best is not None
    assert best.attainment >= 0.99
    prefill, decode = (outcome.replica_seconds for outcome in best.outcomes)
    assert prefill > 1.5 * decode
    assert max(best.schedules[0]) > max(best.schedules[1])


def test_a_simulated_deployment_begins_with_what_its_first_minutes_need() -> None:
    trace = [Arrival(i / 10, 1000, 100) for i in range(9000)]
    busy = 10 * 1000 * REAL.b_p, 10 * REAL.decode_work(1000, 100)
    sizes = begin(trace, [Setup(REAL), Setup(REAL)])
    assert sizes == [ceil(share / 0.7) for share in busy]
