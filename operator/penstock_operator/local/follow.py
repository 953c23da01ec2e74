"""Watching a runtime come up: prints what happens, ends when it serves or never will."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx

from penstock_operator.local.home import Home
from penstock_operator.local.probe import lists, serves
from penstock_operator.local.readiness import Failed, Readiness, Ready, Waiting, readiness_of

PAUSE = 0.1
TAIL = 15
"""Lines of a log that are shown when something failed."""


class NotReady(Exception):
    """What was applied does not serve; the message says why, with the end of the log."""


def read_status(home: Home) -> dict[str, Any] | None:
    """Return what the runtime reported last, None when there is nothing."""
    try:
        found: dict[str, Any] = json.loads(home.status.read_text())
    except FileNotFoundError:
        return None
    return found


class Follower:
    """Prints every event of a runtime once."""

    def __init__(self, home: Home, show: Callable[[str], None]) -> None:
        """Events that lie in the past are not shown."""
        self._home = home
        self._show = show
        self._began = time.monotonic()
        self._shown = self._last_sequence(read_status(home))

    async def until_ready(
        self, generations: Mapping[str, int], patience: float, alive: Callable[[], bool]
    ) -> str:
        """Wait until the named deployments serve; return the endpoint.

        Args:
            generations: name → generation that was applied.
            patience: seconds.
            alive: whether the runtime still lives.

        Raises:
            NotReady: they do not in time, or never will.
        """
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                lives = alive()
                status = read_status(self._home)
                self._show_events(status)
                readiness = readiness_of(status, generations)
                if status and isinstance(readiness, Ready):
                    if await _answers(client, status, generations):
                        return str(status["endpoint"])
                    readiness = Waiting("the endpoint does not answer yet")
                self._check(readiness, lives=lives, patience=patience)
                await asyncio.sleep(PAUSE)

    def _check(self, readiness: Readiness, *, lives: bool, patience: float) -> None:
        """Raise NotReady when waiting on makes no sense."""
        if isinstance(readiness, Failed):
            raise NotReady(f"{readiness.reason}\n{self.tail(readiness.process)}")
        if not lives:
            raise NotReady(f"the runtime ended\n{self.tail('runtime')}")
        if time.monotonic() - self._began > patience:
            reason = readiness.reason if isinstance(readiness, Waiting) else ""
            raise NotReady(f"not ready within {patience:.0f} s: {reason}")

    def show_new_events(self) -> None:
        """Show what has happened since the last call."""
        self._show_events(read_status(self._home))

    def _show_events(self, status: Mapping[str, Any] | None) -> None:
        for event in status["events"] if status else ():
            if event["sequence"] > self._shown:
                self._shown = event["sequence"]
                elapsed = time.monotonic() - self._began
                self._show(f"{elapsed:6.1f} s  {event['object']}: {event['message']}")

    def tail(self, process: str) -> str:
        """Return the last lines that a process printed, with where to find the rest."""
        log = self._home.log(process)
        try:
            lines = log.read_text(errors="replace").splitlines()[-TAIL:]
        except FileNotFoundError:
            return ""
        return "\n".join([f"The end of {log}:", *(f"  | {line}" for line in lines)])

    @staticmethod
    def _last_sequence(status: Mapping[str, Any] | None) -> int:
        return max((event["sequence"] for event in status["events"]), default=0) if status else 0


async def _answers(
    client: httpx.AsyncClient, status: Mapping[str, Any], names: Iterable[str]
) -> bool:
    """Whether the endpoint serves every named deployment that wants workers, as it is now."""
    wanted = {
        item["servedName"]: {adapter["name"] for adapter in item["status"].get("adapters", ())}
        for item in status["items"]
        if item["metadata"]["name"] in set(names)
        and any(pool["desired"] for pool in item["status"]["pools"])
    }
    endpoint = status["endpoint"]
    asked = (serves(client, endpoint, model) for model in wanted)
    return await lists(client, endpoint, wanted) and all(await asyncio.gather(*asked))
