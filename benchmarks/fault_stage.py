"""Where accidents happen: whom they hit, how many streams that were, and what else was found."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from fault_load import Load
from gateway_process import GatewayProcess
from live_fleet import LiveFleet, LiveWorker
from router_peers import Router

from penstock_contract.fleet import WorkerState

LEAST_WORKERS: Final = 3
"""Ready ones before the next worker goes."""
FEW: Final = 3
"""Streams for which an accident waits: one that hits nobody shows nothing."""
PATIENCE: Final = 2.0
"""Seconds after which it is content with one."""


@dataclass
class Accident:
    """Something that went wrong, and when."""

    when: float
    """Monotonic seconds."""
    worker: str = ""
    """Whose streams it hit; nothing where it was not a worker's."""


@dataclass
class Report:
    """What a scenario found beside the streams."""

    accidents: list[Accident] = field(default_factory=list)
    hit: int = 0
    """Streams that were under way where an accident happened; one may be hit several times."""
    problems: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    excused: set[int] = field(default_factory=set)
    """Gateways that were killed: their own streams end, visibly."""
    silent: set[int] = field(default_factory=set)
    """Gateways that cannot be asked any more what they counted."""
    beside: "Counter[int]" = field(default_factory=Counter)
    """Complete answers by gateway that the accident itself asked for, beside the load."""
    unseen: "Counter[int]" = field(default_factory=Counter)
    """Answers by gateway that may have been complete when their clients left."""


@dataclass
class Stage:
    """A fleet under load, for accidents."""

    fleet: LiveFleet
    load: Load
    random: random.Random
    until: float
    """When the load ends, monotonic seconds."""
    peer: Router | None = None
    """What stands in the place of the gateways."""
    report: Report = field(default_factory=Report)

    @property
    def left(self) -> float:
        """Seconds of load that are left."""
        return self.until - time.monotonic()

    @property
    def busiest(self) -> LiveWorker:
        """The ready worker with most streams under way."""
        return max(self.fleet.ready, key=lambda worker: worker.proxy.running)

    async def victim(self) -> LiveWorker:
        """Return the busiest worker as soon as it has a few streams, or the load ends."""
        await self.crowd(lambda: self.busiest.proxy.running)
        return self.busiest

    async def crowd(self, streams: Callable[[], int]) -> None:
        """Wait until a few streams are under way somewhere; after a while, for any."""
        began = time.monotonic()
        await self.when(lambda: streams() >= (FEW if time.monotonic() < began + PATIENCE else 1))

    async def enough(self) -> bool:
        """Wait until accidents leave enough workers; return whether the load goes on."""
        await self.when(lambda: len(self.fleet.ready) >= LEAST_WORKERS)
        return self.left > 1

    async def when(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, or the load ends."""

        async def holds() -> bool:
            return condition() or self.left <= 0

        await GatewayProcess.until(holds, 60 + max(0.0, self.left))

    def happens(self, worker: LiveWorker) -> None:
        """Record an accident of a worker; call it just before."""
        self.report.accidents.append(Accident(time.monotonic(), worker.id))
        self.report.hit += worker.proxy.running

    def problem(self, text: str) -> None:
        """Record that something is not as it must be."""
        self.report.problems.append(text)

    async def leaves(self, worker: LiveWorker) -> None:
        """Tell who routes that a worker takes no requests any more, where that can be told."""
        worker.state = WorkerState.DRAINING
        await self.fleet.publish()
        if self.peer is not None:
            await self.peer.remove(worker.proxy.url)

    async def replace(self, worker: LiveWorker) -> None:
        """Start a worker in the place of one that has ended, and tell who routes."""
        fresh = await self.fleet.replace(worker)
        if self.peer is not None:
            await self.peer.add(fresh.proxy.url)

    async def pause(self, least: float = 0.3, most: float = 1.2) -> None:
        """Let some load go by."""
        await asyncio.sleep(self.random.uniform(least, most))

    async def over(self) -> None:
        """Wait until the load ends."""
        await asyncio.sleep(max(0.0, self.left))

    async def idle(self) -> None:
        """Wait until no worker works on anything, and complain when one goes on doing so."""
        try:
            await GatewayProcess.until(self.all_idle, 120)
        except TimeoutError:
            self.problem("a worker still works on requests that nobody waits for")

    async def all_idle(self) -> bool:
        """Return whether no worker has a request, or a block of one."""
        return all([await _is_idle(worker) for worker in self.fleet.ready])


Disturb = Callable[[Stage], Awaitable[None]]


async def _is_idle(worker: LiveWorker) -> bool:
    used = await worker.metric("penstock_worker_kv_blocks", state="used")
    return used == 0 and await worker.metric("vllm:num_requests_running") == 0
