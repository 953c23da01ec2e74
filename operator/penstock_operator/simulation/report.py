"""What a simulated run comes to, in numbers and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock_operator.simulation.clairvoyant import attainment
from penstock_operator.simulation.setup import Outcome, Setup

Run = tuple[str, Sequence[Outcome]]
"""A policy, and what it did with each pool."""


@dataclass(frozen=True)
class Summary:
    """One run."""

    policy: str
    attainment: float
    """Share of requests inside both objectives."""
    replica_hours: float
    starts: int
    ttft_p99: float
    tpot_p99: float


def summary(policy: str, outcomes: Sequence[Outcome], setup: Setup) -> Summary:
    """Return a run of one pool or several in numbers; times in seconds."""
    jobs = outcomes[-1].jobs
    ttft = sorted(job.first_token - job.arrival for job in jobs)
    tpot = sorted(
        (job.finish - job.first_token) / (job.output_tokens - 1)
        for job in jobs
        if job.output_tokens > 1
    )
    return Summary(
        policy=policy,
        attainment=attainment(outcomes[-1], setup),
        replica_hours=sum(outcome.replica_seconds for outcome in outcomes) / 3600,
        starts=sum(outcome.starts for outcome in outcomes),
        ttft_p99=_quantile(ttft, 0.99),
        tpot_p99=_quantile(tpot, 0.99),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Return runs as a table for people."""
    head = (
        f"{'policy':<24} {'in SLO':>8} {'hours':>8} {'starts':>7} {'TTFT p99':>9} {'TPOT p99':>9}"
    )
    lines = [
        f"{s.policy:<24} {s.attainment:>8.2%} {s.replica_hours:>8.2f} {s.starts:>7} "
        f"{s.ttft_p99:>8.2f}s {s.tpot_p99 * 1000:>7.0f}ms"
        for s in summaries
    ]
    return "\n".join([head, *lines])


def pool_table(runs: Sequence[Run], pools: Sequence[str]) -> str:
    """Return what runs did with each of several pools."""
    lines = [f"{'policy':<24} {'pool':<10} {'hours':>8} {'starts':>7} {'most':>6}"]
    for policy, outcomes in runs:
        for pool, outcome in zip(pools, outcomes, strict=True):
            most = max((sample.desired for sample in outcome.samples), default=0)
            hours = outcome.replica_seconds / 3600
            lines.append(f"{policy:<24} {pool:<10} {hours:>8.2f} {outcome.starts:>7} {most:>6}")
    return "\n".join(lines)


def plot(path: Path, runs: Sequence[Run], pools: Sequence[str]) -> None:
    """Draw replicas and requests of each pool over time as a PNG (needs matplotlib)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size = (11, 5.5 * len(pools))
    figure, axes = pyplot.subplots(2 * len(pools), 1, figsize=size, sharex=True)
    for place, pool in enumerate(pools):
        sizes, load = axes[2 * place : 2 * place + 2]
        for policy, outcomes in runs:
            samples = outcomes[place].samples
            hours = [sample.time / 3600 for sample in samples]
            counts = [s.ready + s.draining for s in samples]
            sizes.step(hours, counts, where="post", label=policy)
            load.plot(hours, [s.held + s.queued for s in samples], linewidth=0.7, label=policy)
        sizes.set_ylabel(f"{pool}: replicas")
        load.set_ylabel(f"{pool}: requests")
    axes[-1].set_xlabel("hours")
    axes[0].legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _quantile(ordered: Sequence[float], quantile: float) -> float:
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
