"""What a scenario amounted to: judgements, pauses, and whether gateways and clients agree."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fault_load import WORKER, Judgement, Load, Sample
from fault_stage import Report
from gateway_process import GatewayProcess

SUFFERED: Final = (
    Judgement.LOST,
    Judgement.TRUNCATED,
    Judgement.DUPLICATED,
    Judgement.MISMATCHED,
)
OUTCOMES: Final = "penstock_gateway_outcomes_total"


@dataclass
class Tally:
    """The figures of one scenario."""

    streams: int
    counts: dict[Judgement, int]
    gaps: list[float]
    """Longest pauses of the streams that an accident of their first worker hit, in seconds."""
    report: Report

    @property
    def gap_p99(self) -> float:
        """Seconds; 0 when no such stream is known."""
        ordered = sorted(self.gaps)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0

    @property
    def failures(self) -> list[str]:
        """What is not as it must be."""
        suffered = [
            f"{self.counts[one]} streams {one.value}" for one in SUFFERED if self.counts[one]
        ]
        idle = [] if self.report.hit else ["the fault hit no stream, so that nothing was shown"]
        return [*suffered, *idle, *self.report.problems]


def tally(load: Load, samples: Sequence[Sample], report: Report) -> Tally:
    """Return the figures of a run."""
    counted = Counter(
        judgement
        for sample, judgement in zip(samples, load.judgements(samples), strict=True)
        # What a killed gateway had ends with it; silently it may not.
        if not (sample.gateway in report.excused and judgement is Judgement.LOST)
    )
    gaps = [
        pause
        for accident in report.accidents
        for sample in samples
        if accident.worker and sample.recording.headers.get(WORKER) == accident.worker
        if (pause := sample.pause_after(accident.when)) is not None
    ]
    counts = {judgement: counted[judgement] for judgement in Judgement}
    return Tally(len(samples), counts, gaps, report)


async def completed(gateways: Sequence[GatewayProcess], silent: set[int]) -> list[float]:
    """Return how many answers each gateway has completed; 0 of those that cannot be asked."""
    return [
        0.0 if number in silent else await gateway.metric(OUTCOMES, outcome="complete")
        for number, gateway in enumerate(gateways)
    ]


async def balance(
    gateways: Sequence[GatewayProcess],
    before: Sequence[float],
    samples: Sequence[Sample],
    report: Report,
) -> None:
    """Complain when gateways have counted other outcomes than their clients saw."""
    whole = Counter(s.gateway for s in samples if s.verdict.outcome == "complete")
    for number in set(range(len(before))) - report.silent:
        gateway = gateways[number]
        least = before[number] + whole[number] + report.beside[number]
        most = least + report.unseen[number]

        async def balanced(
            gateway: GatewayProcess = gateway, least: float = least, most: float = most
        ) -> bool:
            return least <= await gateway.metric(OUTCOMES, outcome="complete") <= most

        try:
            await GatewayProcess.until(balanced, 10)
        except TimeoutError:
            found = await gateway.metric(OUTCOMES, outcome="complete")
            report.problems.append(
                f"gateway {number} counts {found:.0f} complete answers, its clients {least:.0f}"
            )
