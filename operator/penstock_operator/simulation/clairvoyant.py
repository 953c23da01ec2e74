"""What could be had with perfect knowledge of the future: the yardstick of every policy.

The work that a trace will ask of each pool is laid out over time, smoothed, and scaled by the
smallest factor at which the objectives still hold; replicas start a cold start ahead. The best over
several smoothings is taken; of several pools, each is then made smaller by itself as far as that
goes. That is a search, not a proof: a better schedule may exist, so a policy's ratio to it is an
upper bound on how far from it the policy is, and may in principle be below one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

from penstock_operator.simulation.fleet import Stages
from penstock_operator.simulation.patience import Hopeless, Patience, allowed_late
from penstock_operator.simulation.setup import Outcome, Sample, Setup
from penstock_operator.simulation.trace import Arrival

BIN = 5.0
"""Seconds of the schedule's resolution."""
SMOOTHINGS = (15.0, 65.0, 305.0)
"""Seconds over which the work is averaged."""
RANGE = (0.5, 3.0)
"""Factors on the work that are searched."""
LEAST = 0.3
"""Of the common factor, that a single pool may come down to."""
BEGINNING = 300.0
"""Seconds of a trace whose work sizes the pools at its start."""
FILL = 0.7
"""Of those replicas that is busy then."""

Levels = Sequence[Sequence[float]]
"""Replicas kept busy in each pool, by bin."""


@dataclass(frozen=True)
class Best:
    """The cheapest schedule that was found, and what it did with each pool."""

    schedules: tuple[tuple[int, ...], ...]
    outcomes: tuple[Outcome, ...]
    attainment: float

    @property
    def outcome(self) -> Outcome:
        """Of the last pool, whose requests are the trace's."""
        return self.outcomes[-1]

    @property
    def cost(self) -> float:
        """Return the replica-seconds of all pools."""
        return sum(outcome.replica_seconds for outcome in self.outcomes)


def search(trace: Sequence[Arrival], setup: Setup, wanted: float, rounds: int = 6) -> Best | None:
    """Return the cheapest schedule of a Unified pool; see `search_stages`."""
    return search_stages(trace, [setup], wanted, rounds)


def runs_of_search(pools: int, rounds: int = 6) -> int:
    """Return how often `search_stages` plays the trace."""
    apart = pools * (rounds - 2) if pools > 1 else 0
    return len(SMOOTHINGS) * rounds + apart


def search_stages(
    trace: Sequence[Arrival],
    setups: Sequence[Setup],
    wanted: float,
    rounds: int = 6,
    played: Callable[[], None] = lambda: None,
) -> Best | None:
    """Return the cheapest schedules with at least `wanted` of the requests inside objectives.

    Args:
        trace: of the requests.
        setups: of one Unified pool, or of a Prefill and a Decode pool.
        wanted: share of the requests.
        rounds: halvings of the range of factors.
        played: called after each run of the trace.
    """
    works = demands(trace, setups)
    informed = [replace(setup, metric_lag=0.0) for setup in setups]
    best: tuple[Best, Levels, float] | None = None
    for seconds in SMOOTHINGS:
        levels = [smooth(work, round(seconds / BIN)) for work in works]

        def common(factor: float, levels: Levels = levels) -> Best | None:
            return _try(trace, informed, levels, [factor] * len(setups), wanted)

        found = _least(common, *RANGE, rounds, played)
        if found and (best is None or found[0].cost < best[0].cost):
            best = found[0], levels, found[1]
    if best is None or len(setups) == 1:
        return best[0] if best else None
    factors = [best[2]] * len(setups)
    return _apart(trace, informed, best[1], factors, best[0], wanted, rounds - 2, played)


def _apart(
    trace: Sequence[Arrival],
    setups: Sequence[Setup],
    levels: Levels,
    factors: list[float],
    best: Best,
    wanted: float,
    rounds: int,
    played: Callable[[], None],
) -> Best:
    """Make one pool after the other smaller by itself."""
    for place, common in enumerate(factors):

        def alone(factor: float, place: int = place) -> Best | None:
            others = [*factors[:place], factor, *factors[place + 1 :]]
            return _try(trace, setups, levels, others, wanted)

        found = _least(alone, LEAST * common, common, rounds, played)
        if found and found[0].cost < best.cost:
            best, factors[place] = found
    return best


def _least(
    attempt: Callable[[float], Best | None],
    low: float,
    high: float,
    rounds: int,
    played: Callable[[], None],
) -> tuple[Best, float] | None:
    """Return the cheapest attempt that holds the objectives, and its factor, by halving."""
    best: tuple[Best, float] | None = None
    for _ in range(rounds):
        factor = (low + high) / 2
        found = attempt(factor)
        played()
        if found is None:
            low = factor
            continue
        high = factor
        if best is None or found.cost < best[0].cost:
            best = found, factor
    return best


def demands(trace: Sequence[Arrival], setups: Sequence[Setup]) -> list[list[float]]:
    """Return the replicas of each pool that a trace keeps busy in each bin.

    Decoding is spread over the time that it takes when steps take half of the objective.
    """
    bins = int(trace[-1].time / BIN) + 240
    prefill, change = [0.0] * bins, [0.0] * (bins + 1)
    before, after = setups[0].curve, setups[-1].curve
    for arrival in trace:
        first = int(arrival.time / BIN)
        prefill[first] += before.prefill_work(arrival.input_tokens) / BIN
        seconds = arrival.output_tokens * setups[-1].tpot / 2
        last = min(bins, first + max(1, round(seconds / BIN)))
        work = after.decode_work(arrival.input_tokens, arrival.output_tokens)
        rate = work / ((last - first) * BIN)
        change[first] += rate
        change[last] -= rate
    decode = list(accumulate(change[:bins]))
    if len(setups) > 1:
        return [prefill, decode]
    return [[p + d for p, d in zip(prefill, decode, strict=True)]]


def begin(trace: Sequence[Arrival], setups: Sequence[Setup]) -> list[int]:
    """Return the sizes of a deployment that has run before the trace: what its beginning needs."""
    early = round(BEGINNING / BIN)
    means = [sum(work[:early]) / early for work in demands(trace, setups)]
    return [_inside(setup, mean / FILL) for setup, mean in zip(setups, means, strict=True)]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return centred averages."""
    sums = [0.0, *accumulate(values)]
    half = width // 2
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _try(
    trace: Sequence[Arrival],
    setups: Sequence[Setup],
    levels: Levels,
    factors: Sequence[float],
    wanted: float,
) -> Best | None:
    """Return what a schedule does; None where it misses the objective."""
    schedules = tuple(_schedule(*each) for each in zip(setups, levels, factors, strict=True))
    ahead = ceil(setups[0].cold_start / BIN)

    def decide(samples: Sequence[Sample]) -> list[int]:
        now = min(int(samples[0].time / BIN), len(schedules[0]) - 1)
        return [max(schedule[now : now + ahead + 1]) for schedule in schedules]

    first = [max(schedule[: ahead + 1]) for schedule in schedules]
    patient = Patience(decide, allowed_late(trace, wanted))
    try:
        outcomes = tuple(Stages(setups, first).run(trace, patient))
    except Hopeless:
        return None
    found = Best(schedules, outcomes, attainment(outcomes[-1], setups[-1]))
    return found if found.attainment >= wanted else None


def _schedule(setup: Setup, level: Sequence[float], factor: float) -> tuple[int, ...]:
    return tuple(_inside(setup, value * factor) for value in level)


def _inside(setup: Setup, count: float) -> int:
    return min(max(1, ceil(count), setup.min_replicas), setup.max_replicas)


def attainment(outcome: Outcome, setup: Setup) -> float:
    """Return the share of requests inside both objectives."""
    inside = sum(job.inside(setup.ttft, setup.tpot) for job in outcome.jobs)
    return inside / len(outcome.jobs) if outcome.jobs else 1.0
