"""Replays a trace through a Prefill and a Decode pool under the policies of `autoscaler.py`.

    python benchmarks/autoscaler_split.py --trace PATH [--scale K] [--ttft 2] [--quick]

Both pools run in one discrete-event simulation. Penstock's policy has one configuration; HPA and
KPA scale each pool by its own requests in flight, with the best pair of targets that a sweep over
the same trace finds, and the same pair 50 % too high. Prints JSON lines: `gpu_hours` (peer =
clairvoyant), `slo_attainment` and `starts` by policy.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product

from autoscaler import CURVE, WANTED, autoscaler, parser, tell_figures, told_of

from penstock_contract.api import Role
from penstock_operator.simulation.clairvoyant import attainment, begin, search_stages
from penstock_operator.simulation.fleet import DecideAll, Stages
from penstock_operator.simulation.rivals import Fixed, Hpa, Kpa
from penstock_operator.simulation.setup import Outcome, Sample, Setup
from penstock_operator.simulation.trace import Arrival, read, scaled

POOLS = {"prefill": Role.PREFILL, "decode": Role.DECODE}
TARGETS = tuple(product((0.4, 0.6, 0.8, 1.2, 2.0), (45.0, 90.0, 130.0, 195.0)))
"""Requests in flight for each replica of the two pools; a prompt is in flight for a moment only."""
MOST = 24
"""Replicas of a pool that a fixed number may have."""
Kind = type[Hpa] | type[Kpa]


class Run:
    """Plays one trace under one policy after the other."""

    def __init__(self, trace: list[Arrival], setup: Setup) -> None:
        self.trace = trace
        self.setup = setup
        self.sizes = begin(trace, [setup, setup])

    def under(self, decide: DecideAll, sizes: Sequence[int] = ()) -> list[Outcome]:
        """Return what a policy did with both pools."""
        return Stages([self.setup] * 2, sizes or self.sizes).run(self.trace, decide)

    def apart(self, kind: Kind, targets: Sequence[float]) -> list[Outcome]:
        """The same for a policy that sees one pool only."""
        policies = [kind(target) for target in targets]

        def decide(samples: Sequence[Sample]) -> list[int]:
            return [policy(seen) for policy, seen in zip(policies, samples, strict=True)]

        return self.under(decide)

    def meets(self, outcomes: Sequence[Outcome]) -> float:
        """Return the share of requests inside the objectives."""
        return attainment(outcomes[-1], self.setup)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__.splitlines()[0]).parse_args()
    trace = scaled(read(options.trace), options.scale)
    if options.quick:
        trace = [arrival for arrival in trace if arrival.time < 1200]
    run = Run(trace, Setup(CURVE, ttft=options.ttft, tpot=options.tpot))
    runs = {"LittlesLaw": run.under(autoscaler(run.setup, POOLS).sizes), "fixed": _fixed(run)}
    for name, kind in (("HPA", Hpa), ("KPA", Kpa)):
        targets = _swept(run, kind, TARGETS[::3] if options.quick else TARGETS)
        off = [1.5 * target for target in targets]
        runs[f"{name} best {targets}"] = run.apart(kind, targets)
        runs[f"{name} 50 % off"] = run.apart(kind, off)
    best = search_stages(trace, [run.setup] * 2, WANTED, rounds=4 if options.quick else 6)
    if best:
        runs["clairvoyant"] = list(best.outcomes)
    for name, outcomes in runs.items():
        _print(options, run, name, outcomes, best.cost / 3600 if best else None)


def _fixed(run: Run) -> list[Outcome]:
    """Return the smallest pools that hold the objective: the first with ample ones behind it."""
    sizes = [MOST, MOST]
    for place in range(2):
        for count in range(1, MOST + 1):
            sizes[place] = count
            policies = [Fixed(size) for size in sizes]
            outcomes = run.under(partial(_apply, policies), sizes)
            if run.meets(outcomes) >= WANTED:
                break
    return outcomes


def _apply(policies: Sequence[Fixed], samples: Sequence[Sample]) -> list[int]:
    return [policy(seen) for policy, seen in zip(policies, samples, strict=True)]


def _swept(run: Run, kind: Kind, targets: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the cheapest targets that hold the objective, else those that come closest."""
    tried = [(run.apart(kind, pair), pair) for pair in targets]
    good = [one for one in tried if run.meets(one[0]) >= WANTED]
    if good:
        return min(good, key=lambda one: sum(outcome.replica_seconds for outcome in one[0]))[1]
    return max(tried, key=lambda one: run.meets(one[0]))[1]


def _print(
    options: argparse.Namespace,
    run: Run,
    name: str,
    outcomes: Sequence[Outcome],
    clairvoyant: float | None,
) -> None:
    hours = [outcome.replica_seconds / 3600 for outcome in outcomes]
    share = run.meets(outcomes)
    ratio = f"{sum(hours) / clairvoyant:.3f}" if clairvoyant else "-"
    each = " + ".join(f"{pool} {spent:.2f}" for pool, spent in zip(POOLS, hours, strict=True))
    print(f"{name:<22} {share:7.2%} in SLO {each} h {ratio:>6} × clairvoyant", file=sys.stderr)
    rows = [
        ("slo_attainment", "share", share, WANTED),
        ("gpu_hours", "replica-hours", sum(hours), clairvoyant),
        ("starts", "replicas", sum(outcome.starts for outcome in outcomes), None),
    ]
    tell_figures(options, f"prefill + decode, {told_of(options)}: {name}", rows)


if __name__ == "__main__":
    main()
