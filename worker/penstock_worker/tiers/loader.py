"""A thread that fills blocks of the pool from a tier, beside the engine's steps."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock_worker.request import Request
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.transfer.memory import BlockMemory


@dataclass(eq=False)
class Load:
    """Blocks on their way to a request that waits for them."""

    request: Request
    places: list[int]
    """Of the blocks, in the request's block table."""
    names: list[bytes]
    blocks: list[int]
    """Nobody else touches them before the load is done."""
    held: list[int]
    """Blocks in front of and between them, that must stay."""
    followers: dict[str, Request] = field(default_factory=dict)
    """Others that want the same blocks, by their ids."""
    gone: bool = False
    """Nobody waits any more: it is to end soon."""
    received: int = 0
    """Blocks that are filled and proved, from the first on."""
    seconds: float = 0.0
    """How long it took."""


class Loader:
    """Loads one prompt after the other.

    Args:
        memory: of the pool's blocks.
        disk: the tier.
        clock: monotonic seconds.
    """

    def __init__(
        self, memory: BlockMemory, disk: DiskTier, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pending = 0
        """Blocks of all loads that were not returned by `done` yet."""
        self._memory = memory
        self._disk = disk
        self._clock = clock
        self._moved_at = 0.0
        self._orders: queue.SimpleQueue[Load | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Load] = queue.SimpleQueue()

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called from the thread when `done` has something to return."""
        threading.Thread(target=self._run, args=(wake,), name="kv-tier-load", daemon=True).start()

    def close(self) -> None:
        """Load nothing more."""
        self._orders.put(None)

    def order(self, load: Load) -> None:
        """Load blocks, after those that were ordered before."""
        if not self.pending:
            self._moved_at = self._clock()
        self.pending += len(load.blocks)
        self._orders.put(load)

    def done(self) -> list[Load]:
        """Return the loads that have ended since this was last called."""
        ended: list[Load] = []
        while not self._ended.empty():
            ended.append(self._ended.get())
            self.pending -= len(ended[-1].blocks)
        return ended

    @property
    def idle_seconds(self) -> float:
        """Seconds for which nothing has come that was ordered."""
        return self._clock() - self._moved_at if self.pending else 0.0

    def _run(self, wake: Callable[[], None]) -> None:
        buffer = self._disk.buffer()
        while (load := self._orders.get()) is not None:
            began = self._clock()
            try:
                self._load(load, buffer)
                self._disk.touch(load.names[: load.received])
            finally:
                load.seconds = self._clock() - began
                self._ended.put(load)
                wake()

    def _load(self, load: Load, buffer: bytearray) -> None:
        for name, block in zip(load.names, load.blocks, strict=True):
            kv = None if load.gone else self._disk.read(name, buffer)
            if kv is None:
                return
            self._memory.write(block, kv)
            load.received += 1
            self._moved_at = self._clock()
