"""Knows every connection with a request under way, and ends those to workers that hang."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from penstock_contract.metrics import Fault
from penstock_gateway.relay.upstream import Connection
from penstock_gateway.routing.silence import Tempo, Verdict, health_wait

log = logging.getLogger("penstock.gateway.watchdog")

EVERY_SECONDS: Final = 0.1
FEW: Final = 8
"""Pieces of a stream that say nothing yet about its pace."""


class Watchdog:
    """Notices workers that have fallen silent.

    Args:
        clock: monotonic seconds.
        is_well: asks a worker for its health; one that takes longer than so many seconds has none.
        streamed: is told of each stream's worker and mean pause, in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        is_well: Callable[[str, float], Awaitable[bool]],
        streamed: Callable[[str, float], None],
    ) -> None:
        self._clock = clock
        self._is_well = is_well
        self._streamed = streamed
        self._live: dict[str, set[Connection]] = {}
        self._tempos: dict[str, Tempo] = {}
        self._words: dict[str, float] = {}
        """When each worker was last heard on a connection that has ended."""
        self._asked: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def begin(self, worker: str, connection: Connection) -> None:
        """A worker is asked something."""
        self._live.setdefault(worker, set()).add(connection)

    def end(self, worker: str, connection: Connection) -> None:
        """It has answered, or will not."""
        live = self._live.get(worker, set())
        live.discard(connection)
        if connection.pieces:
            self._words[worker] = max(connection.heard, self._words.get(worker, 0.0))
        if not live:
            self._live.pop(worker, None)
        if connection.whole and connection.pieces >= FEW:
            self._tempos[worker] = self._tempos.get(worker, Tempo()).ended(connection.longest)
            self._streamed(worker, connection.mean_pause)

    def paces(self, worker: str) -> list[float]:
        """Return the mean pause of each stream under way, in seconds."""
        live = self._live.get(worker, ())
        return [found.mean_pause for found in live if found.pieces >= FEW]

    def keep_only(self, workers: Iterable[str]) -> None:
        """Forget workers that are gone."""
        alive = set(workers)
        for known in (self._tempos, self._asked, self._words):
            for gone in known.keys() - alive:
                del known[gone]

    def abort_all(self, reason: str) -> None:
        """End every request under way."""
        for worker in list(self._live):
            self._abort(worker, reason, Fault.LOST)

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                for worker in list(self._live):
                    self._look(worker)
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            for task in self._asking.values():
                task.cancel()

    def _look(self, worker: str) -> None:
        # While a client is behind, it is us who do not listen.
        heard = [found for found in self._live[worker] if not found.paused]
        if not heard:
            return
        silent = self._silence(worker, heard)
        tempo = self._tempos.get(worker, Tempo())
        verdict = tempo.judge(silent, decoding=any(found.pieces for found in heard))
        if verdict is Verdict.HUNG:
            self._hangs(worker, f"it has said nothing for {silent:.1f} s")
        elif verdict is Verdict.SUSPICIOUS and worker not in self._asking:
            since = self._clock() - self._asked.get(worker, float("-inf"))
            if since >= tempo.suspicious_after:
                decoding = any(found.pieces for found in heard)
                self._asking[worker] = asyncio.create_task(
                    self._ask(worker, health_wait(decoding=decoding))
                )

    async def _ask(self, worker: str, within: float) -> None:
        asked = self._clock()
        try:
            # Twice: after a pause of this very process, time-outs come before what was received.
            well = await self._is_well(worker, within) or await self._is_well(worker, within)
            heard_since = any(
                found.pieces and found.heard > asked for found in self._live.get(worker, ())
            )
            if not well and not heard_since:
                self._hangs(worker, "neither its streams nor its health endpoint answer")
        finally:
            self._asked[worker] = self._clock()
            del self._asking[worker]

    def _silence(self, worker: str, connections: Sequence[Connection]) -> float:
        """Return for how long a worker has said nothing; what it is asked meanwhile is no word.

        Where no stream has begun, silence begins with the oldest question.
        """
        begun = [found.heard for found in connections if found.pieces]
        since = max(begun) if begun else min(found.heard for found in connections)
        return self._clock() - max(since, self._words.get(worker, 0.0))

    def _hangs(self, worker: str, why: str) -> None:
        log.warning("worker %s hangs: %s", worker, why)
        self._abort(worker, f"it hangs: {why}", Fault.HUNG)

    def _abort(self, worker: str, reason: str, fault: Fault) -> None:
        for connection in list(self._live.get(worker, ())):
            connection.abort(reason, fault)
