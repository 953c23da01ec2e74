"""What could be had with perfect knowledge of the future: the yardstick of every policy.

The work that a trace will ask for is laid out over time, smoothed, and scaled by the smallest
factor at which the objectives still hold; replicas start a cold start ahead. The best over several
smoothings is taken. That is a search, not a proof: a better schedule may exist, so a policy's ratio
to it is an upper bound on how far from it the policy is, and may in principle be below one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.fleet import Fleet
from penstock_operator.simulation.setup import Outcome, Sample, Setup
from penstock_operator.simulation.trace import Arrival

BIN = 5.0
"""Seconds of the schedule's resolution."""
SMOOTHINGS = (15.0, 65.0, 305.0)
"""Seconds over which the work is averaged."""


@dataclass(frozen=True)
class Best:
    """The cheapest schedule that was found, and what it did."""

    schedule: tuple[int, ...]
    outcome: Outcome
    attainment: float


def search(trace: Sequence[Arrival], setup: Setup, wanted: float, rounds: int = 6) -> Best | None:
    """Return the cheapest schedule with at least `wanted` of the requests inside objectives."""
    work = demand(trace, setup.curve, setup.tpot / 2)
    informed = replace(setup, metric_lag=0.0)
    best: Best | None = None
    for seconds in SMOOTHINGS:
        level = smooth(work, round(seconds / BIN))
        low, high = 0.5, 3.0
        for _ in range(rounds):
            factor = (low + high) / 2
            schedule = tuple(
                min(max(ceil(value * factor), setup.min_replicas), setup.max_replicas)
                for value in level
            )
            found = _try(trace, informed, schedule)
            if found.attainment < wanted:
                low = factor
                continue
            high = factor
            if best is None or found.outcome.replica_seconds < best.outcome.replica_seconds:
                best = found
    return best


def demand(trace: Sequence[Arrival], curve: ServiceCurve, step: float) -> list[float]:
    """Return the replicas that a trace keeps busy in each bin, decoding spread over its time."""
    bins = int(trace[-1].time / BIN) + 240
    prefill, change = [0.0] * bins, [0.0] * (bins + 1)
    for arrival in trace:
        first = int(arrival.time / BIN)
        prefill[first] += curve.prefill_work(arrival.input_tokens) / BIN
        last = min(bins, first + max(1, round(arrival.output_tokens * step / BIN)))
        work = curve.decode_work(arrival.input_tokens, arrival.output_tokens)
        rate = work / ((last - first) * BIN)
        change[first] += rate
        change[last] -= rate
    return [p + d for p, d in zip(prefill, accumulate(change), strict=False)]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return centred averages."""
    sums = [0.0, *accumulate(values)]
    half = width // 2
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _try(trace: Sequence[Arrival], setup: Setup, schedule: tuple[int, ...]) -> Best:
    ahead = ceil(setup.cold_start / BIN)

    def decide(sample: Sample) -> int:
        now = min(int(sample.time / BIN), len(schedule) - 1)
        return max(schedule[now : now + ahead + 1])

    outcome = Fleet(setup, max(schedule[: ahead + 1])).run(trace, decide)
    return Best(schedule, outcome, attainment(outcome, setup))


def attainment(outcome: Outcome, setup: Setup) -> float:
    """Return the share of requests inside both objectives."""
    inside = sum(job.inside(setup.ttft, setup.tpot) for job in outcome.jobs)
    return inside / len(outcome.jobs) if outcome.jobs else 1.0
