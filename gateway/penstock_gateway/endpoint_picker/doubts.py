"""Asks workers for their health when an answer of theirs was cut.

A gateway does not say why an answer ends before its end: the client may have left, or the worker
may be lost. The worker can be asked.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from penstock_gateway.fleet.directory import Directory
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.health import ask
from penstock_gateway.routing.router import Router

log = logging.getLogger("penstock.picker.doubts")

WITHIN: Final = 2.0
"""Seconds for an answer."""
AT_MOST: Final = 1.0
"""Seconds between two questions to one worker: clients leave often."""


class Doubts:
    """Asks, and has the router put aside who is not well.

    Args:
        router: knows who is put aside.
        pool: for connections.
        directory: returns the present fleet.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        router: Router,
        pool: ConnectionPool,
        directory: Callable[[], Directory],
        clock: Callable[[], float],
    ) -> None:
        self._router = router
        self._pool = pool
        self._directory = directory
        self._clock = clock
        self._asked: dict[str, float] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def raise_one(self, worker: str) -> None:
        """An answer of a worker was cut."""
        now = self._clock()
        if now - self._asked.get(worker, float("-inf")) < AT_MOST:
            return
        known = {found.id for found in self._directory().fleet.workers}
        self._asked = {name: at for name, at in self._asked.items() if name in known}
        self._asked[worker] = now
        task = asyncio.get_running_loop().create_task(self._ask(worker))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, worker: str) -> None:
        found = self._directory().worker(worker)
        if found is None:
            return
        try:
            well = (await ask(self._pool, found.url, WITHIN)).well
        except StarvedError:  # nobody can tell now
            return
        if not well:
            log.warning("worker %s has cut an answer, and is not well", worker)
            self._router.probed(worker, well=False, now=self._clock())
