"""What a scenario amounted to: judgements, pauses, and whether gateways and clients agree."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fault_load import WORKER, Judgement, Load, Sample
from fault_stage import Report
from gateway_process import GatewayProcess
from stream_auditor import Verdict

SUFFERED: Final = (
    Judgement.LOST,
    Judgement.TRUNCATED,
    Judgement.DUPLICATED,
    Judgement.MISMATCHED,
)
ARRIVALS: Final = "penstock_gateway_arrivals_total"
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
        for sample, judgement, _ in load.judged(samples)
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


def suffering(load: Load, samples: Sequence[Sample], since: float) -> list[str]:
    """Return a line for each stream that is not whole; times count from a moment on."""
    return [
        f"{judgement.value}: sent at {sample.sent - since:.1f} s to gateway {sample.gateway}, "
        f"ended at {sample.ended - since:.1f} s, last heard at {_last(sample) - since:.1f} s, "
        f"{sample.recording.headers}: {_difference(sample.verdict, reference)}"
        for sample, judgement, reference in load.judged(samples)
        if judgement is not Judgement.WHOLE
    ]


def _last(sample: Sample) -> float:
    return max(sample.recording.times, default=sample.sent)


def _difference(found: Verdict, wanted: Verdict) -> str:
    """Return how a stream differs from that of an undisturbed run."""
    if found.outcome != "complete":
        return f"{found.outcome}, {found.error}"
    for index, text in wanted.texts.items():
        got = found.texts.get(index, "")
        same = sum(itertools.takewhile(bool, map(str.__eq__, got, text)))
        if got != text:
            return (
                f"after {same} of {len(text)} characters {got[same:][:40]!r}, {text[same:][:40]!r}"
            )
    return f"{found.usage} instead of {wanted.usage}"


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
        await _closed(number, gateway, report)
        least = before[number] + whole[number] + report.beside[number]
        most = least + report.unseen[number]

        async def balanced(
            gateway: GatewayProcess = gateway, least: float = least, most: float = most
        ) -> bool:
            return least <= await gateway.metric(OUTCOMES, outcome="complete") <= most

        try:
            await GatewayProcess.until(balanced, 60)
        except TimeoutError:
            found = await gateway.metric(OUTCOMES, outcome="complete")
            report.problems.append(
                f"gateway {number} counts {found:.0f} complete answers, its clients {least:.0f}"
            )


async def _closed(number: int, gateway: GatewayProcess, report: Report) -> None:
    """Complain when not every request that a gateway has admitted has one outcome."""

    async def closed() -> bool:
        return await gateway.metric(ARRIVALS) == await gateway.metric(OUTCOMES)

    try:
        await GatewayProcess.until(closed, 60)
    except TimeoutError:
        arrivals, outcomes = await gateway.metric(ARRIVALS), await gateway.metric(OUTCOMES)
        report.problems.append(
            f"gateway {number} has admitted {arrivals:.0f} requests and ended {outcomes:.0f}"
        )
