"""The engine's side of a tier: what leaves the prefix cache is copied, what is wanted comes back.

Everything here runs on the engine's thread. What takes time has threads of its own (`DiskTier`,
`Loader`); they report through a queue and wake the engine, which then calls `settle`.

A load fills blocks of the pool and gives them the names that this engine computed itself, and no
more than that: the request that waited then finds them like any other prefix. Whatever did not come
is computed. While a load writes, it holds its blocks, and nobody can find them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from penstock_contract.step_cost import StepCost
from penstock_contract.tiers import LoadOutcome
from penstock_worker.block_pool import BlockPool
from penstock_worker.messages import TierStats
from penstock_worker.request import Request
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.tiers.estimate import LoadTime
from penstock_worker.tiers.loader import Load, Loader
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
        self._window = Window(window, pool.block_size)
        self._cost = cost
        self._clock = clock
        self._loader = Loader(memory, disk, clock)
        self._time = LoadTime()
        self._loads: dict[str, Load] = {}
        self._coming: dict[bytes, Load] = {}
        self._following: dict[str, Load] = {}
        """What requests wait for that another one has ordered."""
        self._queries = 0
        self._hits = 0
        self._outcomes: Counter[str] = Counter()
        self._loaded_blocks = 0
        self._load_seconds = 0.0

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called from another thread when `settle` has work."""
        self._disk.start()
        self._loader.start(wake)

    def close(self) -> None:
        """Keep what the prefix cache has, as far as that takes little time."""
        self._loader.close()
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
        if places and (same := self._coming.get(names[places[0]])) is not None:
            same.followers[request.id] = request
            self._following[request.id] = same
            return True
        room = self._room(held)
        if places and room < 1:
            return False
        request.asked = True
        self._count(request, names, held)
        if not places or not self._pays(len(places[:room])):
            return False
        self._begin(request, places[:room], names, held)
        return True

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Forget requests; a load ends soon then, and gives its blocks back when it has ended."""
        for request_id in request_ids:
            if request_id in self._following:
                del self._following.pop(request_id).followers[request_id]
            load = self._loads.pop(request_id, None)
            if load is not None:
                self._leave(load)
                self._outcomes[LoadOutcome.CANCELLED] += 1

    def settle(self) -> list[Request]:
        """Make findable what has come; return the requests that wait no longer."""
        self._tell()
        ready: list[Request] = []
        for load in self._loader.done():
            ready += self._finish(load)
        return ready + self._give_up() if self._stalled else ready

    def patience(self) -> float | None:
        """Return the seconds until `settle` may have something to do by the clock, if ever."""
        waited_for = self._loads or self._following
        return max(0.0, STALL_SECONDS - self._loader.idle_seconds) if waited_for else None

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
        return self._loader.idle_seconds >= STALL_SECONDS

    def _give_up(self) -> list[Request]:
        """Return all that wait; what is loaded for them goes back when the disk lets it."""
        given_up = [load.request for load in self._loads.values()]
        for load in self._loads.values():
            self._leave(load)
            self._outcomes[LoadOutcome.LATE] += 1
        self._loads = {}
        for load in set(self._following.values()):
            given_up += self._followers(load)
        return given_up

    def _leave(self, load: Load) -> None:
        """Nobody waits for a load any more but its followers, who ask again when it has ended."""
        load.gone = True
        for name in load.names:
            self._coming.pop(name, None)

    def _table(self, request: Request, names: list[bytes]) -> list[int]:
        """Return the block table of the longest prefix that cache and tier have together."""
        # What another worker is to get is got whole.
        window = Window(0, self._pool.block_size) if request.keep else self._window
        cached = self._pool.lookup(names)
        here = self._disk.has(names)
        return window.longest(
            [
                _WANTED if block is None and found else block
                for block, found in zip(cached, here, strict=True)
            ]
        )

    def _room(self, held: list[int]) -> int:
        """Return the blocks that a load may fill now."""
        share = int(self._pool.num_blocks * SHARE) - self._loader.pending
        spare = int(self._pool.available - self._pool.num_blocks * RESERVE)
        return min(share, spare - self._pool.idle(held))

    def _count(self, request: Request, names: list[bytes], held: list[int]) -> None:
        """Count what was looked up; a preempted request would be counted again."""
        if not request.admitted:
            self._queries += max(0, request.prompt_length - len(held) * self._pool.block_size)
            self._disk.see(names)

    def _pays(self, blocks: int) -> bool:
        """Return whether loading so many blocks is sooner than computing them."""
        tokens = blocks * self._pool.block_size
        pending, now = self._loader.pending, self._clock()
        if self._time.pays(blocks, pending, tokens, self._cost, now):
            return True
        self._outcomes[LoadOutcome.SLOWER] += 1
        return False

    def _begin(
        self, request: Request, places: list[int], names: list[bytes], held: list[int]
    ) -> None:
        self._pool.hold(held)
        blocks = self._pool.allocate(len(places))
        load = Load(request, places, [names[place] for place in places], blocks, held)
        self._loads[request.id] = load
        self._coming |= dict.fromkeys(load.names, load)
        self._loader.order(load)

    def _finish(self, load: Load) -> list[Request]:
        """Give names to what came, and let go of it: who waited finds it by them."""
        self._load_seconds += load.seconds
        self._loaded_blocks += load.received
        if load.received:
            self._time.learn(load.received, load.seconds, self._clock())
        for place, block in list(zip(load.places, load.blocks, strict=True))[: load.received]:
            self._name(load.request, place, block)
        self._pool.release([*load.held, *load.blocks])
        if load.gone:
            return self._followers(load)
        self._leave(load)
        complete = load.received == len(load.blocks)
        self._outcomes[LoadOutcome.COMPLETE if complete else LoadOutcome.SHORT] += 1
        if not load.request.admitted:
            self._hits += load.received * self._pool.block_size
        del self._loads[load.request.id]
        return [load.request, *self._followers(load)]

    def _followers(self, load: Load) -> list[Request]:
        """Return who waits for another one's load, and wait no longer."""
        followers, load.followers = load.followers, {}
        for request_id in followers:
            del self._following[request_id]
        return list(followers.values())

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
