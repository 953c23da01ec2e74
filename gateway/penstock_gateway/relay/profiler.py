"""Reads once what each new worker says of itself, so that its first requests are well placed."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from penstock_contract.fleet import FleetWorker
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.response import UpstreamError
from penstock_gateway.routing.profile import profile
from penstock_gateway.routing.router import Router

log = logging.getLogger("penstock.gateway.profiler")

EVERY_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 2.0
TRIES: Final = 5
"""A worker that does not tell by then is left alone: its answers show the same, later."""
MOST_BYTES: Final = 4 << 20


class Profiler:
    """Goes round the workers that it has not read yet."""

    def __init__(
        self, router: Router, pool: ConnectionPool, directory: Callable[[], Directory]
    ) -> None:
        self._router = router
        self._pool = pool
        self._directory = directory
        self._tries: dict[str, int] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            workers = {worker.id: worker for worker in self._directory().fleet.workers}
            self._tries = {name: self._tries.get(name, 0) for name in workers}
            unread = [workers[name] for name, tries in self._tries.items() if tries < TRIES]
            await asyncio.gather(*map(self._read, unread))
            await asyncio.sleep(EVERY_SECONDS)

    async def _read(self, worker: FleetWorker) -> None:
        self._tries[worker.id] += 1
        text = await self._metrics(worker.url)
        if text:
            self._tries[worker.id] = TRIES
            found = profile(text)
            self._router.profile(worker.id, found.speed, found.kv_tokens, found.cost)
            log.info("worker %s: %s, %s tokens of KV", worker.id, found.speed, found.kv_tokens)

    async def _metrics(self, url: str) -> str:
        """Return a worker's metrics, or nothing."""
        request = f"GET /metrics HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n\r\n".encode()
        text = b""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                connection = await self._pool.connect(url)
                try:
                    status = (await connection.send(request)).status
                    while len(text) < MOST_BYTES and (piece := await connection.piece()):
                        text += piece
                finally:
                    connection.abort()
        except (TimeoutError, UpstreamError, StarvedError):
            return ""
        return text.decode(errors="replace") if status == 200 else ""
