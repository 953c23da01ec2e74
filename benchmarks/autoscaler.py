"""Replays a trace under Penstock's autoscaler, HPA, KPA and a fixed number, beside clairvoyance.

    python benchmarks/autoscaler.py --trace PATH [--scale K] [--ttft 2] [--quick]

All policies run in the same discrete-event simulation of one Unified pool and start with the same
replicas. Penstock's has one configuration for every trace; HPA and KPA get the best target that a
sweep over the same trace finds (the cheapest that holds the objective, else the one that comes
closest), and the same target 50 % too high. Two rows tell what is had without Penstock's gateway:
HPA at its best, and foresight, where every prompt is handed over as it comes. Prints JSON lines:
`gpu_hours` (peer = clairvoyant), `slo_attainment` and `starts` by policy.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from report import line, tell

from penstock_contract.api import InferenceDeployment, Role
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.spec import scaling_spec
from penstock_operator.simulation.clairvoyant import attainment, search
from penstock_operator.simulation.fleet import Fleet, Stages
from penstock_operator.simulation.patience import Hopeless, Patience, allowed_late
from penstock_operator.simulation.rivals import Fixed, Hpa, Kpa
from penstock_operator.simulation.scaler import Autoscaler
from penstock_operator.simulation.setup import Outcome, Sample, Setup
from penstock_operator.simulation.trace import Arrival, read, scaled

WANTED = 0.99
CURVE = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)
"""About a 70B model on four H100."""
TARGETS = (2, 3, 5, 10, 20, 30, 45, 60, 90, 130)


def main() -> None:
    """Measure and print."""
    options = _options()
    trace = scaled(read(options.trace), options.scale)
    if options.quick:
        trace = [arrival for arrival in trace if arrival.time < 1200]
    setup = Setup(CURVE, ttft=options.ttft, tpot=options.tpot, cold_start=options.cold_start)
    start, fixed = _best_fixed(trace, setup)
    best = search(trace, setup, WANTED, rounds=3 if options.quick else 6)
    yardstick = best.outcome if best else None
    runs = {"LittlesLaw": _ours(trace, setup, start), "fixed": fixed}
    targets = TARGETS[::3] if options.quick else TARGETS
    for name, kind in (("HPA", Hpa), ("KPA", Kpa)):
        found, target = _swept(trace, setup, start, kind, targets)
        runs[f"{name} best ({target})"] = found
        runs[f"{name} 50 % off ({target * 1.5:.0f})"] = _run(
            trace, setup, start, kind(target * 1.5)
        )
    if yardstick:
        runs["clairvoyant"] = yardstick
    at_once = replace(setup, in_order=False)
    found, target = _swept(trace, at_once, start, Hpa, targets)
    runs[f"HPA best ({target}), prompts handed over at once"] = found
    if plain := search(trace, at_once, WANTED, rounds=3 if options.quick else 6):
        runs["clairvoyant, prompts handed over at once"] = plain.outcome
    for name, outcome in runs.items():
        _print(options, setup, name, outcome, yardstick)


def autoscaler(setup: Setup, pools: Mapping[str, Role]) -> Autoscaler:
    """Return Penstock's, in its one configuration, for pools by name."""
    bounds = {"minReplicas": setup.min_replicas, "maxReplicas": setup.max_replicas}
    deployment = InferenceDeployment.model_validate(
        {
            "metadata": {"name": "traced"},
            "spec": {
                "model": {"uri": "hf://any/model"},
                "pools": [
                    {"name": name, "role": role, "scaling": bounds} for name, role in pools.items()
                ],
                "slo": {
                    "ttft": {"quantile": str(WANTED), "target": f"{setup.ttft * 1000:.0f}ms"},
                    "tpot": {"quantile": str(WANTED), "target": f"{setup.tpot * 1000:.0f}ms"},
                },
            },
        }
    )
    lead = setup.metric_lag + setup.interval + setup.cold_start
    return Autoscaler(scaling_spec(deployment, lead), setup.curve, *pools)


Policy = Callable[..., int]


def _run(trace: list[Arrival], setup: Setup, start: int, policy: Policy) -> Outcome:
    return Fleet(setup, start).run(trace, policy)


def _ours(trace: list[Arrival], setup: Setup, start: int) -> Outcome:
    return _run(trace, setup, start, autoscaler(setup, {"default": Role.UNIFIED}))


def _held(trace: list[Arrival], setup: Setup, start: int, policy: Policy) -> Outcome | None:
    """Return what a policy does; None where it misses the objective."""

    def decide(seen: Sequence[Sample]) -> list[int]:
        return [policy(seen[0])]

    patient = Patience(decide, allowed_late(trace, WANTED))
    try:
        outcome = Stages([setup], [start]).run(trace, patient)[0]
    except Hopeless:
        return None
    return outcome if attainment(outcome, setup) >= WANTED else None


def _best_fixed(trace: list[Arrival], setup: Setup) -> tuple[int, Outcome]:
    """Return the smallest number that holds the objective all the time; the limit if none does."""
    for count in range(1, setup.max_replicas):
        if outcome := _held(trace, setup, count, Fixed(count)):
            return count, outcome
    count = setup.max_replicas
    return count, _run(trace, setup, count, Fixed(count))


def _swept(
    trace: list[Arrival], setup: Setup, start: int, kind: type[Hpa | Kpa], targets: tuple[int, ...]
) -> tuple[Outcome, int]:
    tried = [(_held(trace, setup, start, kind(float(target))), target) for target in targets]
    good = [(outcome, target) for outcome, target in tried if outcome]
    if good:
        return min(good, key=lambda run: run[0].replica_seconds)
    runs = [(_run(trace, setup, start, kind(float(target))), target) for target in targets]
    return max(runs, key=lambda run: attainment(run[0], setup))


def _print(
    options: argparse.Namespace,
    setup: Setup,
    name: str,
    outcome: Outcome,
    yardstick: Outcome | None,
) -> None:
    hours = outcome.replica_seconds / 3600
    peer = yardstick.replica_seconds / 3600 if yardstick else None
    share = attainment(outcome, setup)
    ratio = f"{hours / peer:.3f}" if peer else "-"
    told = f"{name:<22} {share:7.2%} in SLO {hours:9.2f} h {ratio:>6} × clairvoyant"
    print(f"{told} {outcome.starts:5} starts", file=sys.stderr)
    rows = [
        ("slo_attainment", "share", share, WANTED),
        ("gpu_hours", "replica-hours", hours, peer),
        ("starts", "replicas", outcome.starts, yardstick.starts if yardstick else None),
    ]
    tell_figures(options, f"{told_of(options)}: {name}", rows)


def told_of(options: argparse.Namespace) -> str:
    """Return what was replayed, and against which objective, as figures tell it."""
    return f"{options.trace.name} ×{options.scale:g}, TTFT {options.ttft:g} s"


Row = tuple[str, str, float, float | None]
"""Metric, unit, value, and what it is compared with."""


def tell_figures(options: argparse.Namespace, case: str, rows: Sequence[Row]) -> None:
    """Print the figures of one policy."""
    for metric, unit, value, other in rows:
        against = "objective" if unit == "share" else "clairvoyant"
        figure = line(
            "autoscaler", metric, case, unit, value,
            peer=None if other is None else against, peer_value=other,
        )  # fmt: skip
        figure |= {"ours": round(value, 4), "machine": f"{figure['machine']}, simulated"}
        tell(figure, keep=not options.quick)


def parser(description: str) -> argparse.ArgumentParser:
    """Return what reads the options of a trace and its objectives."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--trace", type=Path, required=True)
    found.add_argument("--scale", type=float, default=1.0, help="factor on the trace's rate")
    found.add_argument("--ttft", type=float, default=2.0, help="objective in seconds")
    found.add_argument("--tpot", type=float, default=0.1, help="objective in seconds")
    found.add_argument("--quick", action="store_true", help="twenty minutes of the trace")
    return found


def _options() -> argparse.Namespace:
    own = parser(__doc__.splitlines()[0])
    own.add_argument("--cold-start", type=float, default=60.0, help="seconds")
    return own.parse_args()


if __name__ == "__main__":
    main()
