"""The living processes: starting them, probing them, signalling them, noticing that they ended."""

import asyncio
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import httpx

from penstock_contract.api import Role
from penstock_operator.local.command import Command
from penstock_operator.local.decide import Phase, Process, Wanted
from penstock_operator.local.home import Home
from penstock_operator.local.journal import Journal
from penstock_operator.local.logs import bound
from penstock_operator.local.logs import remove as remove_log
from penstock_operator.local.member import Member
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


class Crew:
    """The processes of one runtime, by id."""

    def __init__(self, home: Home, client: httpx.AsyncClient, journal: Journal) -> None:
        self._home = home
        self._client = client
        self._journal = journal
        self._members: dict[str, Member] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._dead_logs: deque[Path] = deque()

    @property
    def members(self) -> list[Member]:
        """The living processes, oldest first."""
        return list(self._members.values())

    @property
    def ports(self) -> set[int]:
        """Ports that are in use or about to be."""
        return {member.port for member in self._members.values()}

    def observed(self) -> list[Process]:
        """Return what decisions are made from."""
        return [member.observed() for member in self._members.values()]

    def start(self, name: str, recipe: Recipe, reason: str, now_text: str) -> None:
        """Start a process and begin to probe it; `name` must never have been used before."""
        program, *arguments = recipe.command.argv
        process = spawn(
            [executable(program), *arguments],
            {**os.environ, **recipe.command.environment},
            self._home.log(name),
        )
        member = Member(
            id=name,
            wanted=recipe.wanted,
            process=process,
            port=recipe.port,
            role=recipe.role,
            started=time.monotonic(),
            started_at=now_text,
        )
        self._members[name] = member
        self._journal.tell(name, f"starting (pid {process.pid}): {reason}")
        self._probes[name] = asyncio.create_task(self._prober(member, recipe.model).run())
        self._remember()

    def drain(self, name: str, reason: str) -> None:
        """Mark a process as leaving."""
        self._members[name].enter(Phase.DRAINING, time.monotonic())
        self._journal.tell(name, f"draining: {reason}")

    def terminate(self, name: str) -> None:
        """Tell a process to finish and exit."""
        self._members[name].enter(Phase.TERMINATING, time.monotonic())
        self._members[name].process.send_signal(signal.SIGTERM)

    def kill(self, name: str, reason: str) -> None:
        """End a process now."""
        self._journal.tell(name, f"killed: {reason}")
        end_group(self._members[name].process.pid)

    def reap(self) -> list[tuple[Member, int]]:
        """Forget the processes that have ended; return them with their exit status."""
        ended = [(m, code) for m in self.members if (code := m.process.poll()) is not None]
        for member, _ in ended:
            end_group(member.process.pid)  # it may have left children behind
            del self._members[member.id]
            self._probes.pop(member.id).cancel()
            if member.role is not None:  # a gateway's next process goes on with the same log
                self._keep_log(self._home.log(member.id))
        if ended:
            self._remember()
        return ended

    def bound_logs(self) -> None:
        """Keep what processes print from filling the disk."""
        for name in ("runtime", *self._members):
            bound(self._home.log(name))

    def end_everything(self) -> None:
        """Kill whatever still lives, and wait for it."""
        for member in self.members:
            end_group(member.process.pid)
            member.process.wait()
        self.reap()

    def _prober(self, member: Member, model: str | None) -> Prober:
        def ready() -> None:
            if member.phase is Phase.STARTING:
                now = time.monotonic()
                member.enter(Phase.READY, now)
                self._journal.tell(member.id, f"ready after {now - member.started:.1f} s")

        def healthy() -> None:
            member.last_healthy = time.monotonic()

        return Prober(self._client, member.url, model, ready=ready, healthy=healthy)

    def _remember(self) -> None:
        remember(self._home, [member.process.pid for member in self.members])

    def _keep_log(self, log: Path) -> None:
        self._dead_logs.append(log)
        while len(self._dead_logs) > DEAD_LOGS:
            remove_log(self._dead_logs.popleft())
