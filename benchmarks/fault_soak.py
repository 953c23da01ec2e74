"""F22: everything that can go wrong, at random and for long, for benchmarks/faults.py.

Single accidents show that each is survived; what they leave behind shows only after many.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import Random
from typing import Final

from fault_gateways import COMPLETIONS, at_rest, leave, read_nothing
from fault_stage import Stage
from fault_workers import KINDS_OF_GARBAGE, QUESTION, retire
from gateway_process import GatewayProcess
from growth import MOST_DESCRIPTORS, Growth, Watched, descriptors
from live_fleet import LiveWorker
from stream_auditor import record

from penstock_contract.fleet import WorkerState

Accident = Callable[[Stage, LiveWorker], Awaitable[None]]

STOP_SECONDS: Final = (0.1, 7.0)
SLOW_SECONDS: Final = (2.0, 7.0)
AT_ONCE: Final = 32
"""Requests of a burst before everything else, to the spared worker and to each gateway."""
GARBAGE_SECONDS: Final = (0.2, 1.0)
PARTITION_SECONDS: Final = (0.2, 5.0)


async def soak(stage: Stage) -> None:
    """Let accidents happen as long as there is load; then nothing may be left of them."""
    spared = stage.fleet.workers[0]
    await _warm_up(stage, spared)
    growth = Growth(_watched(stage, spared))
    before = _unexplained(stage)
    watching = asyncio.create_task(growth.watch())
    async with asyncio.TaskGroup() as clients:
        clients.create_task(_come_and_go(stage, clients))
        await _Accidents(stage, spared).run()
    await stage.over()
    watching.cancel()
    _judge(stage, growth)
    await stage.idle()
    for gateway in stage.fleet.gateways:
        await at_rest(stage, gateway)
        await _owes_nothing(stage, gateway)
    after = _unexplained(stage)
    if after > before + MOST_DESCRIPTORS:
        stage.problem(f"descriptors of gateways at rest grew from {before} to {after}")


async def _warm_up(stage: Stage, worker: LiveWorker) -> None:
    """Let what is watched hold at once what it will hold at most: that is no growth later."""
    question = {**QUESTION, "max_tokens": 16}
    urls = [f"http://127.0.0.1:{worker.port}", *stage.load.urls]
    await asyncio.gather(
        *(record(url, COMPLETIONS, question) for url in urls for _ in range(AT_ONCE))
    )
    for gateway in range(len(stage.load.urls)):
        stage.report.beside[gateway] += AT_ONCE


class _Accidents:
    """Draws what happens next, and to whom; one at a time.

    Accidents that overlap can hit one stream twice before it gets any further: the gateway then
    suspects the request, as it should.

    Args:
        stage: where.
        spared: a worker that nothing ends, so that it can be watched all the time.
    """

    def __init__(self, stage: Stage, spared: LiveWorker) -> None:
        self._stage = stage
        self._spared = spared
        self._random = Random(stage.random.random())  # what clients draw changes nothing here
        self._count: Counter[str] = Counter()

    async def run(self) -> None:
        """Go on until the load ends."""
        stage = self._stage
        async with asyncio.TaskGroup() as replacing:
            while await stage.enough():
                await stage.pause(0.5, 2.5)
                name = self._random.choice(list(ACCIDENTS))
                worker = self._victim(name)
                await self._happens(name, worker)
                if worker.state is not WorkerState.READY:
                    replacing.create_task(stage.replace(worker))
        stage.report.figures.update({f"{name}s": count for name, count in self._count.items()})

    def _victim(self, name: str) -> LiveWorker:
        """Return whom it happens to: mostly where streams are, but idle ones have accidents too."""
        mortal = [
            worker
            for worker in self._stage.fleet.ready
            if name not in DEADLY or worker is not self._spared
        ]
        busiest = max(mortal, key=lambda worker: worker.proxy.running)
        return self._random.choice([busiest, busiest, *mortal])

    async def _happens(self, name: str, worker: LiveWorker) -> None:
        self._count[name] += 1
        running = worker.proxy.running
        self._stage.happens(worker)
        began = time.monotonic()
        await ACCIDENTS[name](self._stage, worker)
        sys.stderr.write(
            f"{self._stage.left:6.1f} s left: {worker.id}: {name}, {running} streams, "
            f"for {time.monotonic() - began:.1f} s\n"
        )


async def _kill(stage: Stage, worker: LiveWorker) -> None:
    worker.send(signal.SIGKILL)
    worker.process.wait()
    await asyncio.sleep(0.3)  # what a runtime needs to notice
    await stage.leaves(worker)


async def _drain(stage: Stage, worker: LiveWorker) -> None:
    await stage.leaves(worker)
    await retire(stage, worker)


async def _stop(stage: Stage, worker: LiveWorker) -> None:
    worker.send(signal.SIGSTOP)
    await stage.pause(*STOP_SECONDS)
    worker.send(signal.SIGCONT)


async def _crawl(stage: Stage, worker: LiveWorker) -> None:
    worker.proxy.delay = stage.random.uniform(0.02, 0.3)
    await stage.pause(*SLOW_SECONDS)
    worker.proxy.delay = 0.0


async def _garble(stage: Stage, worker: LiveWorker) -> None:
    worker.proxy.garble = partial(stage.random.choice(KINDS_OF_GARBAGE), stage.random)
    await stage.pause(*GARBAGE_SECONDS)
    worker.proxy.garble = None


async def _partition(stage: Stage, worker: LiveWorker) -> None:
    worker.proxy.partition(silent=True)
    await stage.pause(*PARTITION_SECONDS)
    worker.proxy.partition(silent=False)


async def _reset(stage: Stage, worker: LiveWorker) -> None:
    for _ in range(stage.random.randint(1, 3)):
        worker.proxy.reset()
        await stage.pause(0.05, 0.3)


ACCIDENTS: Final[Mapping[str, Accident]] = {
    "kill": _kill,
    "drain": _drain,
    "stop": _stop,
    "crawl": _crawl,
    "garble": _garble,
    "partition": _partition,
    "reset": _reset,
}
DEADLY: Final = ("kill", "drain")


async def _come_and_go(stage: Stage, clients: asyncio.TaskGroup) -> None:
    """Clients that leave amid their streams, or do not read them."""
    stage.report.figures.update(abandoned=0, unread=0)
    while stage.left > 1:
        await stage.pause(0.5, 2.0)
        gone = stage.random.choice([leave, leave, read_nothing])
        clients.create_task(gone(stage, stage.random.randrange(len(stage.fleet.gateways))))


def _watched(stage: Stage, worker: LiveWorker) -> dict[str, Watched]:
    gateways = [gateway.pid for gateway in stage.fleet.gateways]
    return {
        "gateways": Watched(gateways, lambda: stage.load.live + _to_workers(stage)),
        "worker": Watched([worker.process.pid], lambda: worker.proxy.connections),
    }


def _to_workers(stage: Stage) -> int:
    return sum(worker.proxy.connections for worker in stage.fleet.workers)


def _unexplained(stage: Stage) -> int:
    """Return the descriptors of gateways that are no connections to workers."""
    return sum(descriptors(gateway.pid) for gateway in stage.fleet.gateways) - _to_workers(stage)


def _judge(stage: Stage, growth: Growth) -> None:
    for name, found in growth.drifts().items():
        stage.report.figures[f"{name}_growth_kib"] = round(found.memory)
        stage.report.figures[f"{name}_growth_descriptors"] = round(found.descriptors, 1)
        if found.too_much:
            stage.problem(f"{name} grows: {found}")


async def _owes_nothing(stage: Stage, gateway: GatewayProcess) -> None:
    """See that a gateway at rest holds nothing against any worker."""
    for worker, load in (await gateway.workers()).workers.items():
        if load.in_flight or load.outstanding_tokens:
            stage.problem(f"a gateway at rest has {load} on {worker}")
    if await gateway.metric("penstock_gateway_request_body_bytes"):
        stage.problem("a gateway at rest holds bodies of requests")
