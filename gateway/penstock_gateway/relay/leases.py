"""KV that prefill workers keep for requests, and giving it back when nobody will pull it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from penstock_contract.fleet import FleetWorker
from penstock_contract.handoff import LEASES_PATH
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.handoff import lease_of
from penstock_gateway.relay.response import UpstreamError

log = logging.getLogger("penstock.gateway.leases")

RELEASE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Handoff:
    """A prompt's KV at a prefill worker."""

    worker: FleetWorker
    params: bytes
    """For the decode worker, as the prefill worker said it."""


class Leases:
    """Gives leases back, while nobody waits for that.

    Args:
        pool: for connections.
        token: headers by which workers know their gateway.
    """

    def __init__(self, pool: ConnectionPool, token: Sequence[tuple[str, str]] = ()) -> None:
        self._pool = pool
        self._token = "".join(f"{name}: {value}\r\n" for name, value in token)
        self._releasing: set[asyncio.Task[None]] = set()

    def give_back(self, handoff: Handoff) -> None:
        """Tell a worker that nobody will pull; if that does not arrive, the lease runs out."""
        lease = lease_of(handoff.params)
        if lease:
            task = asyncio.create_task(self._release(handoff.worker, lease))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    async def _release(self, worker: FleetWorker, lease: str) -> None:
        host = urlsplit(worker.url).netloc
        head = f"DELETE {LEASES_PATH}{lease} HTTP/1.1\r\nhost: {host}\r\n{self._token}\r\n"
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                connection = await self._pool.connect(worker.url)
                try:
                    await connection.send(head.encode())
                finally:
                    connection.abort()
        except (TimeoutError, UpstreamError, StarvedError) as error:
            log.info("a lease of worker %s runs out by itself: %s", worker.id, error)
