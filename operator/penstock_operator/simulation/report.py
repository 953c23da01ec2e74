"""What a simulated run comes to, in numbers and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock_operator.simulation.clairvoyant import attainment
from penstock_operator.simulation.setup import Outcome, Setup


@dataclass(frozen=True)
class Summary:
    """One run."""

    policy: str
    attainment: float
    """Share of requests inside both objectives."""
    replica_hours: float
    starts: int
    mean_replicas: float
    ttft_p99: float
    tpot_p99: float


def summary(policy: str, outcome: Outcome, setup: Setup) -> Summary:
    """Return a run in numbers; times in seconds."""
    ttft = sorted(job.first_token - job.arrival for job in outcome.jobs)
    tpot = sorted(
        (job.finish - job.first_token) / (job.output_tokens - 1)
        for job in outcome.jobs
        if job.output_tokens > 1
    )
    span = outcome.samples[-1].time - outcome.samples[0].time if outcome.samples else 0.0
    return Summary(
        policy=policy,
        attainment=attainment(outcome, setup),
        replica_hours=outcome.replica_seconds / 3600,
        starts=outcome.starts,
        mean_replicas=outcome.replica_seconds / span if span else 0.0,
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


def plot(path: Path, runs: Sequence[tuple[str, Outcome]]) -> None:
    """Draw replicas and requests in the system over time as a PNG (needs matplotlib)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (sizes, load) = pyplot.subplots(2, 1, figsize=(11, 6), sharex=True)
    for name, outcome in runs:
        hours = [sample.time / 3600 for sample in outcome.samples]
        sizes.step(hours, [s.ready + s.draining for s in outcome.samples], where="post", label=name)
        load.plot(hours, [s.held + s.queued for s in outcome.samples], linewidth=0.7, label=name)
    sizes.set_ylabel("replicas")
    load.set_ylabel("requests in the system")
    load.set_xlabel("hours")
    sizes.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _quantile(ordered: Sequence[float], quantile: float) -> float:
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
