"""The living processes: starting them, probing them, signalling them, noticing that they ended."""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from penstock_contract.api import Role
from penstock_operator.local.adapters import AdapterKeeper, Folders
from penstock_operator.local.child import Child
from penstock_operator.local.command import Command
from penstock_operator.local.decide import Phase, Process, Wanted
from penstock_operator.local.home import Home
from penstock_operator.local.journal import Journal
from penstock_operator.local.logs import bound
from penstock_operator.local.logs import remove as remove_log
from penstock_operator.local.probe import Prober
from penstock_operator.local.spawn import end_group, executable, remember, spawn

DEAD_LOGS = 8
"""Logs of ended processes that are kept: the latest ones."""


@dataclass(frozen=True)
class Recipe:
    """Everything that starting one process takes."""

    wanted: Wanted
    command: Command
    port: int
    role: Role | None
    """None for the gateway and the batch service."""
    model: str | None
    """Served name, for the one-token probe; None when health is enough."""
    adapters: Callable[[], Folders] | None = None
    """Returns those that it is to have now; None: it takes none."""
    by_name: bool = False
    """It finds cached KV by an adapter's name alone."""


class Supervisor:
    """The processes of one runtime, by id."""

    def __init__(self, home: Home, client: httpx.AsyncClient, journal: Journal) -> None:
        self._home = home
        self._client = client
        self._journal = journal
        self._children: dict[str, Child] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._dead_logs: deque[Path] = deque()

    @property
    def children(self) -> list[Child]:
        """The living processes, oldest first."""
        return list(self._children.values())

    @property
    def ports(self) -> set[int]:
        """Ports that are in use or about to be."""
        return {child.port for child in self._children.values()}

    def observed(self) -> list[Process]:
        """Return what decisions are made from."""
        return [child.observed() for child in self._children.values()]

    def start(self, name: str, recipe: Recipe, reason: str, now_text: str) -> None:
        """Start a process and begin to probe it; `name` must never have been used before."""
        program, *arguments = recipe.command.argv
        process = spawn(
            [executable(program), *arguments],
            {**os.environ, **recipe.command.environment},
            self._home.log(name),
        )
        child = Child(
            id=name,
            wanted=recipe.wanted,
            process=process,
            port=recipe.port,
            role=recipe.role,
            started=time.monotonic(),
            started_at=now_text,
        )
        self._children[name] = child
        self._journal.tell(name, f"starting (pid {process.pid}): {reason}")
        keeper = None
        if recipe.adapters is not None:
            keeper = AdapterKeeper(self._client, child.url, recipe.adapters, by_name=recipe.by_name)
            child.report = lambda: keeper.report
        self._probes[name] = asyncio.create_task(self._watch(child, recipe.model, keeper))
        self._remember()

    def drain(self, name: str, reason: str) -> None:
        """Mark a process as leaving."""
        self._children[name].enter(Phase.DRAINING, time.monotonic())
        self._journal.tell(name, f"draining: {reason}")

    def terminate(self, name: str) -> None:
        """Tell a process to finish and exit."""
        self._children[name].enter(Phase.TERMINATING, time.monotonic())
        self._children[name].process.send_signal(signal.SIGTERM)

    def kill(self, name: str, reason: str) -> None:
        """End a process now."""
        self._journal.tell(name, f"killed: {reason}")
        end_group(self._children[name].process.pid)

    def reap(self) -> list[tuple[Child, int]]:
        """Forget the processes that have ended; return them with their exit status."""
        ended = [(c, code) for c in self.children if (code := c.process.poll()) is not None]
        for child, _ in ended:
            end_group(child.process.pid)  # it may have left processes of its own behind
            del self._children[child.id]
            self._probes.pop(child.id).cancel()
            if child.role is not None:  # a gateway's next process goes on with the same log
                self._keep_log(self._home.log(child.id))
        if ended:
            self._remember()
        return ended

    def bound_logs(self) -> None:
        """Keep what processes print from filling the disk."""
        for name in ("runtime", *self._children):
            bound(self._home.log(name))

    def end_everything(self) -> None:
        """Kill whatever still lives, and wait for it."""
        for child in self.children:
            end_group(child.process.pid)
            child.process.wait()
        self.reap()

    async def _watch(self, child: Child, model: str | None, keeper: AdapterKeeper | None) -> None:
        """Probe a process, and keep its adapters once it has become ready."""
        async with asyncio.TaskGroup() as tasks:
            ready = asyncio.Event()
            settled = keeper.settle if keeper is not None else None
            tasks.create_task(self._prober(child, model, settled, ready).run())
            if keeper is not None:
                await ready.wait()
                await keeper.run()

    def _prober(
        self,
        child: Child,
        model: str | None,
        settled: Callable[[], Awaitable[bool]] | None,
        became_ready: asyncio.Event,
    ) -> Prober:
        def ready() -> None:
            became_ready.set()
            if child.phase is Phase.STARTING:
                now = time.monotonic()
                child.enter(Phase.READY, now)
                self._journal.tell(child.id, f"ready after {now - child.started:.1f} s")

        def healthy() -> None:
            child.last_healthy = time.monotonic()

        return Prober(self._client, child.url, model, ready=ready, healthy=healthy, settled=settled)

    def _remember(self) -> None:
        remember(self._home, [child.process.pid for child in self.children])

    def _keep_log(self, log: Path) -> None:
        self._dead_logs.append(log)
        while len(self._dead_logs) > DEAD_LOGS:
            remove_log(self._dead_logs.popleft())
