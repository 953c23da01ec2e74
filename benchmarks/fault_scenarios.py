"""The accidents of benchmarks/faults.py: what each does to a running fleet, and what it checks."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fault_load import WORKER, Judgement, Load, Sample
from gateway_process import GatewayProcess
from live_fleet import LiveFleet, LiveWorker
from stream_auditor import record

from penstock_contract.fleet import WorkerState

HANG_SECONDS: Final = 6.0
PARTITION_SECONDS: Final = 4.0
DRAIN_SECONDS: Final = 1.0
"""Grace of a worker that is told to go: too short for its streams, so that they must move."""
LEAST_WORKERS: Final = 3
"""Ready ones before the next worker goes."""
SLOW_SECONDS: Final = 0.1
"""By which each event of a slow worker comes later, or each other one."""


@dataclass
class Accident:
    """Something that went wrong, and when."""

    when: float
    worker: str = ""
    """Whose streams it hit."""


@dataclass
class Report:
    """What a scenario found beside the streams."""

    accidents: list[Accident] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)
    """Gateways that were killed: their own streams end, visibly."""
    slow: str = ""
    """A worker that crawled all the time."""


@dataclass
class Stage:
    """Where an accident happens."""

    fleet: LiveFleet
    random: random.Random
    until: float
    """When the load ends, monotonic seconds."""
    report: Report = field(default_factory=Report)

    @property
    def left(self) -> float:
        """Seconds of load that are left."""
        return self.until - time.monotonic()

    def victim(self) -> LiveWorker:
        """Return a worker that takes requests."""
        return self.random.choice(self.fleet.ready)

    async def enough(self) -> bool:
        """Wait until accidents leave enough workers; return whether the load goes on."""

        async def enough() -> bool:
            return len(self.fleet.ready) >= LEAST_WORKERS or self.left <= 0

        await GatewayProcess.until(enough, 60 + self.left)
        return self.left > 1

    def happened(self, worker: str = "") -> None:
        """Record an accident."""
        self.report.accidents.append(Accident(time.monotonic(), worker))

    async def pause(self, least: float = 0.3, most: float = 1.2) -> None:
        """Let some load go by."""
        await asyncio.sleep(self.random.uniform(least, most))


Disturb = Callable[[Stage], Awaitable[None]]


async def kill_workers(stage: Stage) -> None:
    """F1: a worker dies at once, and is replaced after a while."""
    async with asyncio.TaskGroup() as replacing:
        while await stage.enough():
            await stage.pause()
            victim = stage.victim()
            victim.send(signal.SIGKILL)
            stage.happened(victim.id)
            victim.process.wait()
            await asyncio.sleep(0.3)  # what a runtime needs to notice
            victim.state = WorkerState.DRAINING
            await stage.fleet.publish()
            replacing.create_task(stage.fleet.replace(victim))


async def hang_workers(stage: Stage) -> None:
    """F2: a worker stops for a while, and goes on as if nothing had been."""
    while stage.left > 3:
        await stage.pause()
        victim = stage.victim()
        victim.send(signal.SIGSTOP)
        stage.happened(victim.id)
        await asyncio.sleep(HANG_SECONDS)
        victim.send(signal.SIGCONT)
    await _idle(stage)


async def retire_workers(stage: Stage) -> None:
    """F3: a worker is told to go while it streams, and has no time to finish."""
    async with asyncio.TaskGroup() as replacing:
        while await stage.enough():
            await stage.pause()
            victim = stage.victim()
            victim.state = WorkerState.DRAINING
            await stage.fleet.publish()
            stage.happened(victim.id)
            victim.send(signal.SIGTERM)
            status = await asyncio.to_thread(victim.process.wait, 30)
            if status:
                stage.report.problems.append(f"a worker that was told to go exited with {status}")
            replacing.create_task(stage.fleet.replace(victim))


async def retire_a_gateway(stage: Stage) -> None:
    """F5: a gateway is told to go, and finishes its streams."""
    await asyncio.sleep(stage.left / 2)
    gateway = stage.fleet.gateways[0]
    gateway.terminate()
    stage.happened()
    if await asyncio.to_thread(gateway.wait, 60):
        stage.report.problems.append("the gateway did not exit with 0")


async def kill_a_gateway(stage: Stage) -> None:
    """F6: a gateway dies; its streams end, the other's do not, and workers are free at once."""
    await asyncio.sleep(stage.left / 2)
    stage.fleet.gateways[0].kill()
    stage.happened()
    stage.report.excused.add(0)
    await asyncio.sleep(stage.left + 0.1)
    await _idle(stage)


async def partition_workers(stage: Stage) -> None:
    """F11: a worker cannot be reached: packets vanish, connections are reset, again and again."""
    while stage.left > 3:
        await stage.pause()
        victim = stage.victim()
        stage.happened(victim.id)
        victim.proxy.partition(silent=True)
        await asyncio.sleep(PARTITION_SECONDS)
        victim.proxy.partition(silent=False)
        await stage.pause()
        flapping = stage.victim()
        for _ in range(5):
            stage.happened(flapping.id)
            flapping.proxy.reset()
            await stage.pause(0.05, 0.3)


async def slow_a_worker(stage: Stage) -> None:
    """F13: one worker crawls; its share of the streams tells who noticed."""
    slow = stage.victim()
    slow.proxy.delay = SLOW_SECONDS
    stage.report.slow = slow.id
    await asyncio.sleep(stage.left)
    ejections = [await g.metric("penstock_gateway_ejections_total") for g in stage.fleet.gateways]
    stage.report.figures["ejections"] = sum(ejections)


async def garble_a_worker(stage: Stage) -> None:
    """F14: one worker answers garbage, of several kinds."""
    victim = stage.victim()
    kinds: list[Callable[[bytes], bytes]] = [
        lambda data: bytes(stage.random.randrange(256) for _ in data),
        lambda data: data.replace(b"data: {", b"data: <", 1),
        lambda data: data.replace(b"HTTP/1.1 200", b"HTTP/1.1 2x0", 1),
        lambda data: data[: len(data) // 2],
    ]
    while stage.left > 1:
        stage.happened(victim.id)
        victim.proxy.garble = stage.random.choice(kinds)
        await stage.pause(0.5, 1.0)
    victim.proxy.garble = None


async def abandon_streams(stage: Stage) -> None:
    """F19: half as many clients again leave in the middle, some read slowly; nothing leaks."""
    gateways = stage.fleet.gateways
    before = [_descriptors(gateway.process.pid) for gateway in gateways if gateway.process]
    body = {
        "model": "pydoc",
        "prompt": "Tell me everything.",
        "stream": True,
        "max_tokens": 400,
        "ignore_eos": True,
    }
    abandoned = 0
    while stage.left > 1:
        url = stage.random.choice(gateways).url
        reading = asyncio.create_task(record(url, "/v1/completions", body))
        await stage.pause(0.02, 0.4)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        abandoned += 1
    stage.report.figures["abandoned"] = abandoned
    await asyncio.sleep(max(0.0, stage.left))
    await _idle(stage)
    after = [_descriptors(gateway.process.pid) for gateway in gateways if gateway.process]
    # Connections to workers are kept, a bounded number of them.
    if any(now > then + 64 for now, then in zip(after, before, strict=True)):
        stage.report.problems.append(f"descriptors grew from {before} to {after}")


SCENARIOS: Final[dict[str, Disturb]] = {
    "F1": kill_workers,
    "F2": hang_workers,
    "F3": retire_workers,
    "F5": retire_a_gateway,
    "F6": kill_a_gateway,
    "F11": partition_workers,
    "F13": slow_a_worker,
    "F14": garble_a_worker,
    "F19": abandon_streams,
}


@dataclass
class Tally:
    """The figures of one scenario."""

    streams: int
    counts: dict[Judgement, int]
    gaps: list[float]
    """Pauses of the streams that an accident hit, in seconds."""
    report: Report

    @property
    def gap_p99(self) -> float:
        """Seconds; 0 when no stream was hit."""
        ordered = sorted(self.gaps)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


def tally(load: Load, samples: list[Sample], report: Report) -> Tally:
    """Return the figures of a run."""
    judged = list(zip(samples, load.judgements(samples), strict=True))
    counted = [
        judgement
        for sample, judgement in judged
        # What a killed gateway had ends with it; silently it may not.
        if not (sample.gateway in report.excused and judgement is Judgement.LOST)
    ]
    if report.slow:
        of_slow = [s for s in samples if s.recording.headers.get(WORKER) == report.slow]
        report.figures["slow_share"] = round(len(of_slow) / len(samples), 3)
    gaps = [
        pause
        for accident in report.accidents
        for sample in samples
        if accident.worker and sample.recording.headers.get(WORKER) == accident.worker
        if (pause := sample.pause_after(accident.when)) is not None
    ]
    counts = {judgement: counted.count(judgement) for judgement in Judgement}
    return Tally(len(samples), counts, gaps, report)


async def _idle(stage: Stage) -> None:
    """Wait until no worker works on anything, and complain when one goes on doing so."""
    began = time.monotonic()
    while time.monotonic() < began + 30:
        if all([await _is_idle(worker) for worker in stage.fleet.ready]):
            stage.report.figures["idle_after_seconds"] = round(time.monotonic() - began, 2)
            return
        await asyncio.sleep(0.1)
    stage.report.problems.append("a worker still works on requests that nobody waits for")


async def _is_idle(worker: LiveWorker) -> bool:
    used = await worker.metric("penstock_worker_kv_blocks", state="used")
    return used == 0 and await worker.metric("vllm:num_requests_running") == 0


def _descriptors(process: int) -> int:
    return len(os.listdir(Path("/proc") / str(process) / "fd"))
