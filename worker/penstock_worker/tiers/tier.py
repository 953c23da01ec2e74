"""The engine's side of a tier: what leaves the prefix cache is copied, what is wanted comes back.

Everything here runs on the engine's thread, but for the thread that loads; it reports through a
queue and wakes the engine, which then calls `settle`.

A load fills blocks of the pool and gives them the names that this engine computed itself, and no
more than that: the request that waited then finds them like any other prefix. Whatever did not come
is computed. While a load writes, it holds its blocks, and nobody can find them.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from penstock_contract.step_cost import StepCost
from penstock_contract.tiers import LoadOutcome
from penstock_worker.block_pool import BlockPool
from penstock_worker.messages import TierStats
from penstock_worker.request import Request
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.tiers.estimate import LoadTime
from penstock_worker.transfer.memory import BlockMemory
from penstock_worker.window import Window

SHARE: Final = 0.5
"""Of the pool, that loads may fill at a time."""
RESERVE: Final = 1 / 16
"""Of the pool, that loads leave to requests that run."""
STALL_SECONDS: Final = 5.0
"""Without a block; then computing is the better bet."""
_WANTED: Final = -2
"""In the place of a block that the tier has."""
_CLOSE_SECONDS: Final = 5.0


@dataclass(eq=False)
class _Load:
    """Blocks on their way to a request that waits for them."""

    request: Request
    places: list[int]
    """Of the blocks, in the request's block table."""
    names: list[bytes]
    blocks: list[int]
    held: list[int]
    """Blocks in front of and between them, that must stay."""
    gone: bool = False
    """Nobody waits any more."""
    received: int = 0
    """Blocks that are filled and proved, from the first on."""


class Tier:
    """Spills blocks to a tier, and loads them.

    Args:
        pool: the engine's, with caching.
        memory: its blocks' bytes.
        disk: the tier.
        window: tokens that the model's widest layer sees; 0 for all.
        cost: of a step; None: every load pays.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pool: BlockPool,
        memory: BlockMemory,
        disk: DiskTier,
        *,
        window: int = 0,
        cost: StepCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._memory = memory
        self._disk = disk
        self._windows = {keep: Window(0 if keep else window, pool.block_size) for keep in (0, 1)}
        self._cost = cost
        self._clock = clock
        self._time = LoadTime()
        self._loads: dict[str, _Load] = {}
        self._loading = 0
        """Blocks of all loads that have not ended."""
        self._orders: queue.SimpleQueue[_Load | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[_Load, float]] = queue.SimpleQueue()
        self._moved_at = 0.0
        """When a block came last, or the first one was asked for."""
        self._wake: Callable[[], None] = lambda: None
        self._queries = 0
        self._hits = 0
        self._outcomes: Counter[str] = Counter()
        self._loaded_blocks = 0
        self._load_seconds = 0.0

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called from another thread when `settle` has work."""
        self._wake = wake
        self._disk.start()
        threading.Thread(target=self._load_all, name="kv-tier-load", daemon=True).start()

    def close(self) -> None:
        """Keep what the prefix cache has, as far as that takes little time."""
        self._orders.put(None)
        for name, block in self._pool.cached():
            self.evicted(name, block)
        self._disk.close(_CLOSE_SECONDS)

    def evicted(self, name: bytes, block: int) -> None:
        """A block leaves the prefix cache; its content is still there, but not for long."""
        if self._disk.wants(name):
            self._disk.put(name, b"".join(self._memory.read(block)))

    def fetch(self, request: Request) -> bool:
        """Begin to load what the tier has of a prompt and the prefix cache has not.

        False when there is nothing, or computing is sooner, or there is no room for it now. Else
        the request is not to be admitted before `settle` has returned it.
        """
        if request.asked or request.unscored or self._stalled:
            return False
        full = (len(request.tokens) - 1) // self._pool.block_size
        names = request.full_block_names(self._pool.block_size, full)
        table = self._table(request, names)
        places = [place for place, block in enumerate(table) if block == _WANTED]
        held = [block for block in table if block >= 0]
        room = self._room(held)
        if places and room < 1:
            return False
        request.asked = True
        self._count(request, names, held)
        del places[room:]
        size = self._pool.block_size
        if not places:
            return False
        if not self._time.pays(
            len(places), self._loading, len(places) * size, self._cost, self._clock()
        ):
            self._outcomes[LoadOutcome.SLOWER] += 1
            return False
        self._begin(request, places, names, held)
        return True

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Forget requests; a load ends soon then, and gives its blocks back when it has ended."""
        for request_id in request_ids:
            load = self._loads.pop(request_id, None)
            if load is not None:
                load.gone = True
                self._outcomes[LoadOutcome.CANCELLED] += 1

    def settle(self) -> list[Request]:
        """Make findable what has come; return the requests that wait no longer."""
        self._tell()
        ready: list[Request] = []
        while not self._done.empty():
            ready += self._finish(*self._done.get())
        return ready + self._give_up() if self._stalled else ready

    def patience(self) -> float | None:
        """Return the seconds until `settle` may have something to do by the clock, if ever."""
        if not self._loads:
            return None
        return max(0.0, self._moved_at + STALL_SECONDS - self._clock())

    def stats(self) -> TierStats:
        """Return the state now and the counts since the engine's start."""
        return TierStats(
            queries=self._queries,
            hits=self._hits,
            loads=dict(self._outcomes),
            loaded_bytes=self._loaded_blocks * self._memory.block_bytes,
            load_seconds=self._load_seconds,
            stored_bytes=self._disk.stored_bytes,
            skipped=dict(self._disk.skipped),
            corrupt=self._disk.corrupt,
            used_bytes=self._disk.used,
            capacity_bytes=self._disk.capacity,
        )

    @property
    def _stalled(self) -> bool:
        """Whether the disk hangs."""
        return bool(self._loading) and self._clock() - self._moved_at >= STALL_SECONDS

    def _give_up(self) -> list[Request]:
        """Return all that wait; what is loaded for them goes back when the disk lets it."""
        given_up, self._loads = self._loads, {}
        for load in given_up.values():
            load.gone = True
            self._outcomes[LoadOutcome.LATE] += 1
        return [load.request for load in given_up.values()]

    def _table(self, request: Request, names: list[bytes]) -> list[int]:
        """Return the block table of the longest prefix that cache and tier have together."""
        cached = self._pool.lookup(names)
        here = self._disk.has(names)
        return self._windows[request.keep].longest(
            [
                _WANTED if block is None and found else block
                for block, found in zip(cached, here, strict=True)
            ]
        )

    def _room(self, held: list[int]) -> int:
        """Return the blocks that a load may fill now."""
        share = int(self._pool.num_blocks * SHARE) - self._loading
        spare = int(self._pool.available - self._pool.num_blocks * RESERVE)
        return min(share, spare - self._pool.idle(held))

    def _count(self, request: Request, names: list[bytes], held: list[int]) -> None:
        """Count what was looked up; a preempted request would be counted again."""
        if not request.admitted:
            self._queries += max(0, request.prompt_length - len(held) * self._pool.block_size)
            self._disk.see(names)

    def _begin(
        self, request: Request, places: list[int], names: list[bytes], held: list[int]
    ) -> None:
        if not self._loading:
            self._moved_at = self._clock()
        self._pool.hold(held)
        blocks = self._pool.allocate(len(places))
        load = _Load(request, places, [names[place] for place in places], blocks, held)
        self._loading += len(blocks)
        self._loads[request.id] = load
        self._orders.put(load)

    def _load_all(self) -> None:
        """Runs on the thread that loads."""
        buffer = self._disk.buffer()
        while (load := self._orders.get()) is not None:
            began = self._clock()
            try:
                self._load(load, buffer)
                self._disk.touch(load.names[: load.received])
            finally:
                self._done.put((load, self._clock() - began))
                self._wake()

    def _load(self, load: _Load, buffer: bytearray) -> None:
        for name, block in zip(load.names, load.blocks, strict=True):
            kv = None if load.gone else self._disk.read(name, buffer)
            if kv is None:
                return
            self._memory.write(block, kv)
            load.received += 1
            self._moved_at = self._clock()

    def _finish(self, load: _Load, seconds: float) -> list[Request]:
        self._loading -= len(load.blocks)
        self._load_seconds += seconds
        self._loaded_blocks += load.received
        if load.received:
            self._time.learn(load.received, seconds, self._clock())
        for place, block in list(zip(load.places, load.blocks, strict=True))[: load.received]:
            self._name(load.request, place, block)
        self._pool.release([*load.held, *load.blocks])
        if load.gone:
            return []
        complete = load.received == len(load.blocks)
        self._outcomes[LoadOutcome.COMPLETE if complete else LoadOutcome.SHORT] += 1
        if not load.request.admitted:
            self._hits += load.received * self._pool.block_size
        del self._loads[load.request.id]
        return [load.request]

    def _name(self, request: Request, place: int, block: int) -> None:
        names = request.full_block_names(self._pool.block_size, place + 1)
        if self._pool.name(block, names[place]) and self._pool.log is not None:
            self._pool.log.stored(names, request.tokens, place, request.adapter)

    def _tell(self) -> None:
        """Note for routers what the tier has got and given away."""
        changes = self._disk.changes()
        if self._pool.log is not None:
            for name, here in changes:
                self._pool.log.tier(name, here=here)
