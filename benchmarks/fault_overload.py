"""F15: three times as many requests as the fleet can serve, most of them of the lowest class.

What is judged is the gateway, so workers are simulated: real ones would compete with it for the
processors of one machine, and the fewer tokens would be the load's fault.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fault_load import COMPLETIONS
from live_fleet import LiveFleet, live_fleet
from stream_auditor import Recording, audit, record
from worker_process import NAME

from penstock_contract.fleet import FleetClass, FleetQueue

OVERLOAD: Final = "F15"
TIMES: Final = 3.0
URGENT_SHARE: Final = 0.1
AT_ONCE: Final = 16
"""Requests that the fleet runs at once."""
RUNNER: Final = "sim"
COST: Final = "step=0.02,sequence=0.0002,prefill_token=0.0001"
"""Seconds of a step: 32 tokens take two thirds of a second."""
QUEUE: Final = FleetQueue(
    per_worker=AT_ONCE // 4,
    max_requests=32,
    timeout=30.0,
    cold_start_timeout=30.0,
    classes=(FleetClass(name="batch", priority=-10), FleetClass(name="urgent", priority=10)),
    default=FleetClass(name="standard"),
)

Figure = tuple[str, str, float | None, float]
"""Metric, unit, limit, value."""


@dataclass
class _Asked:
    """One request, and how long it took."""

    tier: str
    sent: float
    ended: float
    recording: Recording

    @property
    def complete(self) -> bool:
        """The answer is whole."""
        return audit(self.recording, include_usage=True).outcome == "complete"

    @property
    def refused(self) -> bool:
        """There was no room for it."""
        return self.recording.status in (429, 503)

    @property
    def first_token(self) -> float:
        """Seconds."""
        return self.recording.times[0] - self.sent


@dataclass(frozen=True)
class Overload:
    """What came of it."""

    requests: int
    refused: int
    figures: list[Figure]

    @property
    def failures(self) -> list[str]:
        """What is not as it must be, whatever the machine."""
        known = {metric: value for metric, _, _, value in self.figures}
        strict = ("urgent_not_served", "neither_served_nor_refused")
        found = [f"{known[metric]:.0f} {metric}" for metric in strict if known[metric]]
        return found if self.refused else [*found, "nothing was refused: that was no overload"]


async def overload(folder: Path, *, quick: bool) -> Overload:
    """Return what 3× overload does to the fleet."""
    seconds = 8.0 if quick else 60.0
    fleet = LiveFleet(folder, ("--runner", RUNNER, "--sim-cost", COST), queue=QUEUE)
    async with live_fleet(fleet, AT_ONCE // QUEUE.per_worker, 1):
        url = fleet.gateways[0].url
        alone = [await _ask(url, "urgent", n) for n in range(5)]
        peak = await _peak(url, 5.0 if quick else 20.0)
        asked = await _flood(url, TIMES * peak, seconds)
        recovery = await _recovery(url, _quantile([one.first_token for one in alone], 0.5))
    refused = sum(one.refused for one in asked)
    return Overload(len(asked), refused, _figures(peak, seconds, asked, recovery))


def _figures(peak: float, seconds: float, asked: list[_Asked], recovery: float) -> list[Figure]:
    end = asked[0].sent + seconds
    served = [one for one in asked if one.recording.status == 200 and one.complete]
    goodput = sum(asked[0].sent + 1 < one.ended <= end for one in served) / (seconds - 1)
    refused = [one.ended - one.sent for one in asked if one.refused]
    urgent = [one for one in asked if one.tier == "urgent"]
    whole = [one for one in urgent if one in served]
    broken = len(asked) - len(served) - len(refused)
    return [
        ("goodput_share_of_peak", "ratio", 0.9, goodput / peak),
        ("refusal_p99_seconds", "s", 0.05, _quantile(refused, 0.99)),
        ("urgent_not_served", "requests", 0.0, float(len(urgent) - len(whole))),
        ("urgent_first_token_p99_seconds", "s", None, _quantile([u.first_token for u in whole])),
        ("neither_served_nor_refused", "requests", 0.0, float(broken)),
        ("recovery_seconds", "s", 10.0, recovery),
    ]


async def _peak(url: str, seconds: float) -> float:
    """Return the requests per second that clients get who wait for each other."""
    began = time.monotonic()
    until = began + seconds

    async def client(number: int) -> int:
        done = 0
        while time.monotonic() < until:
            await _ask(url, "standard", number + AT_ONCE * done)
            done += 1
        return done

    done = sum(await asyncio.gather(*map(client, range(AT_ONCE))))
    return done / (time.monotonic() - began)  # the last ones end after the time is up


async def _flood(url: str, rate: float, seconds: float) -> list[_Asked]:
    chance = random.Random(3)
    tasks: list[asyncio.Task[_Asked]] = []
    when = time.monotonic()
    end = when + seconds
    while when < end:
        await asyncio.sleep(max(0.0, when - time.monotonic()))
        tier = "urgent" if chance.random() < URGENT_SHARE else "batch"
        tasks.append(asyncio.create_task(_ask(url, tier, len(tasks))))
        when += chance.expovariate(rate)
    return list(await asyncio.gather(*tasks))


async def _recovery(url: str, usual: float) -> float:
    """Return after how many seconds a first token is there as soon as it usually is, or twice."""
    began = time.monotonic()
    while time.monotonic() < began + 60:
        one = await _ask(url, "standard", 0)
        if one.recording.status == 200 and one.first_token < 2 * usual + 0.05:
            break
    return time.monotonic() - began


async def _ask(url: str, tier: str, number: int) -> _Asked:
    body = {
        "model": NAME,
        "prompt": f"({number}) Explain lists.",
        "max_tokens": 32,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "service_tier": tier,
    }
    sent = time.monotonic()
    recording = await record(url, COMPLETIONS, body)
    return _Asked(tier, sent, time.monotonic(), recording)


def _quantile(values: Sequence[float], share: float = 0.99) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
