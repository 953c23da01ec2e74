"""Looks at workers that were put aside, so that no client's request has to find out."""

import asyncio
import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from penstock_gateway.fleet.directory import Directory
from penstock_gateway.relay.upstream import Pool, UpstreamError
from penstock_gateway.routing.load import Router

log = logging.getLogger("penstock.gateway.prober")

EVERY_SECONDS = 0.1
TIMEOUT_SECONDS = 2.0


class Prober:
    """Asks the workers whose pause is over for their health."""

    def __init__(self, router: Router, pool: Pool, directory: Callable[[], Directory]) -> None:
        self._router = router
        self._pool = pool
        self._directory = directory
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                for worker in self._router.to_probe(time.monotonic()):
                    if worker not in self._asking:
                        self._asking[worker] = asyncio.create_task(self._ask(worker))
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            for task in self._asking.values():
                task.cancel()

    async def _ask(self, worker: str) -> None:
        try:
            found = self._directory().worker(worker)
            well = found is not None and await self._is_well(found.url)
            log.info("worker %s was put aside and is %s", worker, "well again" if well else "down")
            self._router.probed(worker, well=well, now=time.monotonic())
        finally:
            del self._asking[worker]

    async def _is_well(self, url: str) -> bool:
        request = f"GET /health HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                connection = await self._pool.connect(url)
                try:
                    return (await connection.send(request)).status == 200
                finally:
                    connection.abort()
        except (TimeoutError, UpstreamError):
            return False
