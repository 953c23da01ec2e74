"""Carries every batch to its end, from wherever it is: after a crash as well as after a pause."""

import asyncio
import logging
import time
import traceback
from collections.abc import Coroutine
from typing import Any, Final

from penstock_gateway.batches.batch import Batch, Status
from penstock_gateway.batches.files import Files
from penstock_gateway.batches.gateway_client import GatewayClient
from penstock_gateway.batches.limits import LONGEST_KEPT, MOST_ENDED
from penstock_gateway.batches.metrics import BatchMetrics
from penstock_gateway.batches.run import Run
from penstock_gateway.batches.steadiness import Steadiness
from penstock_gateway.batches.steps import finish, validate
from penstock_gateway.batches.store import BatchStore
from penstock_gateway.batches.turns import next_ones

log = logging.getLogger("penstock.batches")

RETRY_SECONDS: Final = 10.0
"""After something failed that has nothing to do with the gateway, like a full disk."""
CLEAN_EVERY: Final = 60.0


class Keeper:
    """The only one who moves batches on.

    Args:
        files: of all tenants.
        store: of all batches.
        gateway: of the gateway.
        concurrency: requests in flight.
        metrics: of the service.
    """

    def __init__(
        self,
        files: Files,
        store: BatchStore,
        gateway: GatewayClient,
        concurrency: int,
        metrics: BatchMetrics,
    ) -> None:
        self._files = files
        self._store = store
        self._gateway = gateway
        self._concurrency = concurrency
        self._metrics = metrics
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._running = 0
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Carry batches until cancelled; those under way go on at the next start."""
        cleaning = asyncio.create_task(self._clean())
        try:
            while True:
                self._woken.clear()
                active = await asyncio.to_thread(self._store.active)
                self._metrics.batches(active)
                for batch in next_ones(active, self._carried):
                    self._begin(batch.id)
                await self._woken.wait()
        finally:
            for task in (cleaning, *self._carried.values()):
                task.cancel()
            await asyncio.gather(cleaning, *self._carried.values(), return_exceptions=True)

    def wake(self) -> None:
        """There is a new batch."""
        self._woken.set()

    def interrupt(self, batch_id: str) -> None:
        """A batch is to be cancelled: it is carried on from there."""
        if task := self._carried.get(batch_id):
            task.cancel()
        self.wake()

    def _begin(self, batch_id: str) -> None:
        task = asyncio.create_task(self._carry(batch_id))
        self._carried[batch_id] = task
        task.add_done_callback(lambda _: self._ended(batch_id))

    def _ended(self, batch_id: str) -> None:
        del self._carried[batch_id]
        self.wake()

    async def _carry(self, batch_id: str) -> None:
        """Take a batch as far as it goes."""
        try:
            while await self._step(batch_id):
                pass
        except Exception as error:
            _tell(f"batch {batch_id} waits", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _step(self, batch_id: str) -> bool:
        """Return whether there is another step."""
        batch = await asyncio.to_thread(self._store.find, batch_id)
        if batch is None:
            return False
        match batch.status:
            case Status.VALIDATING:
                await _to_its_end(asyncio.to_thread(validate, batch, self._files, self._store))
                return await self._failed_not(batch_id)
            case Status.IN_PROGRESS:
                await self._execute(batch)
                return True
            case Status.FINALIZING | Status.CANCELLING:
                await _to_its_end(self._finish(batch))
                return False
            case _:
                return False

    async def _failed_not(self, batch_id: str) -> bool:
        batch = await asyncio.to_thread(self._store.find, batch_id)
        if batch is not None and batch.status is Status.FAILED:
            self._metrics.ended(Status.FAILED)
            return False
        return True

    async def _execute(self, batch: Batch) -> None:
        """Run a batch until it is done or its window is over."""
        source = self._files.path(batch.input_file)
        run = Run(batch, source, self._store, self._gateway, self._share, self._metrics)
        self._running += 1
        try:
            async with asyncio.timeout(max(0.0, batch.expires - time.time())) as window:
                await run.until_done()
        except TimeoutError:  # or a file system's, which says nothing of the batch
            if not window.expired():
                raise
            log.info("batch %s has expired", batch.id)
        finally:
            self._running -= 1
        await asyncio.to_thread(self._store.move, batch.id, Status.FINALIZING, time.time())

    async def _finish(self, batch: Batch) -> None:
        ended = await asyncio.to_thread(finish, batch, self._files, self._store)
        if ended is None:
            return
        counts = ended.counts
        left = counts.total - counts.completed - counts.failed
        if left:
            missed = "cancelled" if ended.status is Status.CANCELLED else "expired"
            self._metrics.requests(missed, left)
        self._metrics.ended(ended.status)
        log.info("batch %s is %s: %d of %d", batch.id, ended.status, counts.completed, counts.total)

    def _share(self) -> int:
        """Return how many requests each running batch may have in flight."""
        return max(1, self._concurrency // max(1, self._running))

    async def _clean(self) -> None:
        clock = Steadiness.begun(time.time(), time.monotonic())
        while True:
            clock = clock.seen(time.time(), time.monotonic())
            try:
                if clock.believed:
                    await asyncio.to_thread(self._files.expire, clock.wall)
                old = clock.wall - LONGEST_KEPT if clock.believed else 0.0
                await asyncio.to_thread(self._store.expire, old, MOST_ENDED)
                self._metrics.stored(*await asyncio.to_thread(self._files.stored))
            except Exception as error:
                _tell("what is old stays", error)
            await asyncio.sleep(CLEAN_EVERY)


async def _to_its_end(step: Coroutine[Any, Any, None]) -> None:
    """Take a step that blocks in a thread; who is cancelled waits for it all the same.

    A thread cannot be ended, and must not meet the one that takes the batch's next step.
    """
    task = asyncio.create_task(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(asyncio.shield(task), return_exceptions=True)
        raise


def _tell(what: str, error: Exception) -> None:
    """Log an exception without its text, which may quote a request."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s: %s in %s:%s", what, type(error).__name__, where.filename, where.lineno)
