"""Runs one batch: as many of its requests at once as there is room for, until none is left."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock_gateway.batches.batch import Batch
from penstock_gateway.batches.gateway_client import Answer, Fate, GatewayClient, fate
from penstock_gateway.batches.lines import answer_line, line_id, parse
from penstock_gateway.batches.metrics import BatchMetrics
from penstock_gateway.batches.store import BatchStore, Entry
from penstock_gateway.batches.window import Window

AGAIN_SECONDS: Final = 1.0
"""Before a request is sent again that a worker failed."""


@dataclass
class _Turn:
    entry: Entry
    failures: int = 0


class Run:
    """The execution of a batch, from wherever it is.

    Args:
        batch: that is in progress.
        source: its input file.
        store: has its requests, and gets their answers.
        gateway: of the gateway.
        most: returns how many requests it may have in flight.
        metrics: of the service.
    """

    def __init__(
        self,
        batch: Batch,
        source: Path,
        store: BatchStore,
        gateway: GatewayClient,
        most: Callable[[], int],
        metrics: BatchMetrics,
    ) -> None:
        self._batch = batch
        self._source = source
        self._store = store
        self._gateway = gateway
        self._most = most
        self._metrics = metrics
        self._window = Window()
        self._turns: deque[_Turn] = deque()
        self._flying: set[asyncio.Task[None]] = set()
        self._last = 0
        """Number of the last request that was taken from the store."""
        self._read_all = False

    async def until_done(self) -> None:
        """Return when every request has its answer."""
        self._metrics.window(self._window.size)
        try:
            while await self._more() or self._flying:
                self._send()
                await self._something()
        finally:
            for task in self._flying:
                task.cancel()
            await asyncio.gather(*self._flying, return_exceptions=True)
            self._metrics.window(-self._window.size)

    async def _more(self) -> bool:
        """Return whether there is anything to send."""
        if not self._turns and not self._read_all:
            found = await asyncio.to_thread(self._store.unanswered, self._batch.id, self._last)
            self._turns.extend(_Turn(entry) for entry in found)
            self._last = found[-1].number if found else self._last
            self._read_all = not found
        return bool(self._turns)

    def _send(self) -> None:
        room = self._window.room(len(self._flying), self._most(), time.monotonic())
        while room > 0 and self._turns:
            room -= 1
            task = asyncio.create_task(self._ask(self._turns.popleft()))
            self._flying.add(task)

    async def _something(self) -> None:
        """Return when a request is answered, or a pause is over.

        Raises:
            Exception: an answer could not be kept.
        """
        pause = max(0.0, self._window.resumes_at - time.monotonic())
        if not self._flying:
            await asyncio.sleep(pause)
            return
        done, self._flying = await asyncio.wait(
            self._flying,
            timeout=pause or None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in done:
            task.result()

    async def _ask(self, turn: _Turn) -> None:
        line = await asyncio.to_thread(_read, self._source, turn.entry)
        request = parse(line, self._batch.endpoint)
        sent_at = time.monotonic()
        self._metrics.in_flight(1)
        try:
            answer = await self._gateway.ask(self._batch.tenant, self._batch.endpoint, request)
        finally:
            self._metrics.in_flight(-1)
        match fate(answer.status, turn.failures):
            case Fate.LATER:
                self._turns.append(turn)  # behind the others, whom what refuses it may let in
                self._back_off(answer, sent_at)
            case Fate.AGAIN:
                await asyncio.sleep(AGAIN_SECONDS)
                turn.failures += 1
                self._turns.append(turn)
            case Fate.DONE:
                self._change(self._window.answered(self._most()))
                await self._keep(turn.entry, answer)

    async def _keep(self, entry: Entry, answer: Answer) -> None:
        batch, ok = self._batch, answer.ok
        own = line_id(batch.id, entry.number)
        line = answer_line(own, entry.custom_id, answer.status, answer.request_id, answer.body)
        kept = asyncio.to_thread(self._store.answered, batch.id, entry.number, line, ok=ok)
        if await kept:
            self._metrics.requests("completed" if ok else "failed")

    def _back_off(self, answer: Answer, sent_at: float) -> None:
        smaller = self._window.refused(sent_at, time.monotonic(), answer.retry_after)
        if smaller is not self._window:
            self._metrics.backed_off(answer.status)
            self._change(smaller)

    def _change(self, window: Window) -> None:
        self._metrics.window(window.size - self._window.size)
        self._window = window


def _read(source: Path, entry: Entry) -> bytes:
    with source.open("rb") as content:
        content.seek(entry.start)
        return content.read(entry.size)
