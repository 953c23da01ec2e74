"""Looks after workers: probes those put aside, so that no client's request has to find out, and
puts those aside that are much slower than the others of their pool."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from penstock_gateway.fleet.directory import Directory
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.health import ask
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.router import Router

log = logging.getLogger("penstock.gateway.prober")

EVERY_SECONDS: Final = 0.1
ROUNDS: Final = 10
"""Of them, until all paces are compared once more."""
TIMEOUT_SECONDS: Final = 2.0


class Prober:
    """Goes round all workers.

    Args:
        router: knows who is put aside.
        pool: for connections.
        quarantine: is told which workers have not died after all.
        directory: returns the present fleet.
        paces: returns the mean pause of each of a worker's streams under way, in seconds.
        ejected: is told the deployment of each worker that is put aside for being slow.
    """

    def __init__(
        self,
        router: Router,
        pool: ConnectionPool,
        quarantine: Quarantine,
        directory: Callable[[], Directory],
        paces: Callable[[str], Iterable[float]],
        ejected: Callable[[str], None],
    ) -> None:
        self._router = router
        self._pool = pool
        self._quarantine = quarantine
        self._directory = directory
        self._paces = paces
        self._ejected = ejected
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            for number in itertools.count():
                now = time.monotonic()
                self._look_at_broken(now)
                if number % ROUNDS == 0:
                    self._look_at_slow(now)
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            for task in self._asking.values():
                task.cancel()

    def _look_at_broken(self, now: float) -> None:
        for worker in self._router.to_probe(now):
            if worker not in self._asking:
                self._asking[worker] = asyncio.create_task(self._ask(worker))

    def _look_at_slow(self, now: float) -> None:
        directory = self._directory()
        for model in directory.fleet.models:
            self._eject([worker.id for worker in directory.ready(model)], model.deployment, now)

    def _eject(self, pool: Iterable[str], deployment: str, now: float) -> None:
        under_way = {worker: self._paces(worker) for worker in pool}
        for worker in self._router.put_slow_aside(under_way, now):
            log.warning("worker %s is much slower than the others and is put aside", worker)
            self._ejected(deployment)

    async def _ask(self, worker: str) -> None:
        try:
            found = self._directory().worker(worker)
            if found is None:
                return
            health = await ask(self._pool, found.url, TIMEOUT_SECONDS)
            state = "well again" if health.well else "down"
            log.info("worker %s was put aside and is %s", worker, state)
            if health.well and health.epoch and health.epoch == self._router.epoch(worker):
                self._quarantine.absolve(worker)
            self._router.probed(worker, well=health.well, now=time.monotonic())
        except StarvedError:  # the next round asks again
            return
        finally:
            del self._asking[worker]
