"""Accidents of workers, for benchmarks/faults.py: what each does, and what it checks."""

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from fault_stage import Stage
from live_fleet import LiveWorker
from stream_auditor import audit, record

HANG_SECONDS: Final = 6.0
PARTITION_SECONDS: Final = 4.0
DRAIN_SECONDS: Final = 1.0
"""Grace of a worker that is told to go: too short for its streams, so that they must move."""
SLOW_SECONDS: Final = 0.2
"""By which each event of a slow worker comes later, or each other one."""
LAST_STREAMS: Final = 8
"""Under way when all workers are told to go."""
QUESTION: Final = {
    "model": "pydoc",
    "prompt": "Tell me everything.",
    "stream": True,
    "max_tokens": 400,
    "ignore_eos": True,
}

KINDS_OF_GARBAGE: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    lambda random, data: random.randbytes(len(data)),
    lambda _, data: data.replace(b"data: {", b"data: <", 1),
    lambda _, data: data.replace(b"HTTP/1.1 200", b"HTTP/1.1 2x0", 1),
    lambda _, data: data[: len(data) // 2].ljust(len(data), b"\0"),
)


async def kill_workers(stage: Stage) -> None:
    """F1: a worker dies at once, and is replaced after a while."""
    async with asyncio.TaskGroup() as replacing:
        while await stage.enough():
            await stage.pause()
            victim = await stage.victim()
            stage.happens(victim)
            victim.send(signal.SIGKILL)
            victim.process.wait()
            await asyncio.sleep(0.3)  # what a runtime needs to notice
            await stage.leaves(victim)
            replacing.create_task(stage.replace(victim))


async def hang_workers(stage: Stage) -> None:
    """F2: a worker stops for a while, and goes on as if nothing had been."""
    while stage.left > 3:
        await stage.pause()
        victim = await stage.victim()
        stage.happens(victim)
        victim.send(signal.SIGSTOP)
        await asyncio.sleep(HANG_SECONDS)
        victim.send(signal.SIGCONT)
    await stage.over()
    await stage.idle()


async def retire_workers(stage: Stage) -> None:
    """F3: workers are told to go: one by one, without time to finish, and at last all of them."""
    async with asyncio.TaskGroup() as replacing:
        while await stage.enough():
            await stage.pause()
            victim = await stage.victim()
            await stage.leaves(victim)
            stage.happens(victim)
            await retire(stage, victim)
            replacing.create_task(stage.replace(victim))
    if stage.peer is None:
        await _retire_all(stage)


async def retire(stage: Stage, worker: LiveWorker) -> None:
    """Tell a worker to go, and see that it does, and that nobody asks it for anything more."""
    before = worker.proxy.asked
    worker.send(signal.SIGTERM)
    status = await asyncio.to_thread(worker.process.wait, 180)
    if status:
        stage.problem(f"a worker that was told to go exited with {status}")
    if stage.peer is None and worker.proxy.asked > before:
        stage.problem(f"{worker.proxy.asked - before} requests went to a worker that was leaving")


async def _retire_all(stage: Stage) -> None:
    """Scale to nothing under streams that have time to finish."""
    await stage.over()
    await stage.idle()
    for worker in stage.fleet.ready:
        await stage.leaves(worker)
        await retire(stage, worker)
    stage.fleet.worker_flags = (*stage.fleet.worker_flags, "--drain-timeout", "60s")
    await asyncio.gather(*map(stage.fleet.replace, list(stage.fleet.workers)))
    begun = [asyncio.Event() for _ in range(LAST_STREAMS)]
    url = stage.load.urls[0]
    reading = [
        asyncio.create_task(record(url, "/v1/completions", QUESTION, first_piece=event))
        for event in begun
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    for worker in list(stage.fleet.workers):
        stage.happens(worker)
        await stage.leaves(worker)
    await asyncio.gather(*(retire(stage, worker) for worker in stage.fleet.workers))
    verdicts = [audit(await one, include_usage=False) for one in reading]
    stage.report.beside[0] = sum(verdict.outcome == "complete" for verdict in verdicts)
    stage.report.figures["ended_at_scale_to_zero"] = stage.report.beside[0]
    if any(verdict.violations or verdict.outcome != "complete" for verdict in verdicts):
        stage.problem("scaling to nothing cost streams that had time to finish")


async def partition_workers(stage: Stage) -> None:
    """F11: a worker cannot be reached: packets vanish, connections are reset, again and again."""
    while stage.left > 3:
        await stage.pause()
        victim = await stage.victim()
        stage.happens(victim)
        victim.proxy.partition(silent=True)
        await asyncio.sleep(PARTITION_SECONDS)
        victim.proxy.partition(silent=False)
        await stage.pause()
        flapping = await stage.victim()
        for _ in range(5):
            stage.happens(flapping)
            flapping.proxy.reset()
            await stage.pause(0.05, 0.3)
    await stage.over()
    await stage.idle()


async def slow_a_worker(stage: Stage) -> None:
    """F13: one worker crawls; its share of the requests tells who noticed."""
    await stage.pause(1.0, 1.5)
    slow = await stage.victim()
    stage.happens(slow)
    before = [worker.proxy.asked for worker in stage.fleet.workers]
    slow.proxy.delay = SLOW_SECONDS
    began, noticed = time.monotonic(), 0.0
    while stage.left > 0:
        await asyncio.sleep(0.2)
        if not noticed and await _ejections(stage):
            noticed = time.monotonic() - began
    slow.proxy.delay = 0.0
    asked = [w.proxy.asked - b for w, b in zip(stage.fleet.workers, before, strict=True)]
    share = asked[stage.fleet.workers.index(slow)] / max(1, sum(asked))
    figures = stage.report.figures
    figures["ejections"], figures["ejected_after_seconds"] = await _ejections(stage), noticed
    figures["share_of_slow_worker"] = round(share, 3)
    if not noticed:
        stage.problem("the worker that crawls was never put aside")


async def _ejections(stage: Stage) -> float:
    name = "penstock_gateway_ejections_total"
    return sum([await gateway.metric(name) for gateway in stage.fleet.gateways])


async def garble_a_worker(stage: Stage) -> None:
    """F14: one worker answers garbage, of several kinds."""
    await stage.pause(1.0, 1.5)
    victim = await stage.victim()
    while stage.left > 1:
        kind = stage.random.choice(KINDS_OF_GARBAGE)
        victim.proxy.garble = partial(kind, stage.random)
        await stage.pause(0.5, 1.0)
        victim.proxy.garble = None  # it looks well again, and is trusted again
        await stage.pause(0.5, 1.0)
    stage.report.hit = victim.proxy.garbled
