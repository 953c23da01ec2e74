"""The KV block pool: which block holds what, and who holds it. Plain Python, no torch.

A block is in exactly one of three states:

    used     some request holds a reference
    cached   nobody does, but its content has a name (a chained hash) and may be found again
    free     neither

so `used + cached + free = total` at any time. Cached blocks are given away in least-recently-used
order when free ones run out. A request's blocks are released last block first, so that the tail of
a prefix is evicted before its head: a prefix without its head can be continued only where that lies
behind a sliding window.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock_worker.engine_config import EngineConfig
from penstock_worker.kv_events.log import CacheLog


class OutOfBlocks(Exception):
    """More blocks were asked for than are free or evictable; nothing was taken."""


@dataclass(frozen=True)
class Counts:
    """Blocks by state."""

    used: int
    cached: int
    free: int


class Spill(Protocol):
    """Where blocks go that leave the cache."""

    def evicted(self, name: bytes, block: int) -> None:
        """A block is given away; its content is there until this returns."""


class BlockPool:
    """Ref-counted fixed-size blocks with a content-addressed cache.

    Args:
        num_blocks: size of the pool; blocks are numbered from 0.
        block_size: tokens per block.
        caching: keep the names of full blocks, so equal prefixes share them.
        log: where changes of what can be found are noted.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        caching: bool = True,
        log: CacheLog | None = None,
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("num_blocks and block_size must be at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.caching = caching
        self.log = log
        self.spill: Spill | None = None
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._name_of: list[bytes | None] = [None] * num_blocks
        self._by_name: dict[bytes, int] = {}

    @classmethod
    def of(cls, config: EngineConfig, num_blocks: int) -> "BlockPool":
        """Return the pool that an engine's settings ask for."""
        log = CacheLog(config.block_size, config.adapters) if config.kv_events else None
        return cls(num_blocks, config.block_size, caching=config.prefix_caching, log=log)

    @property
    def available(self) -> int:
        """Blocks that `allocate` could hand out."""
        return len(self._free) + len(self._cached)

    def counts(self) -> Counts:
        """Return the number of blocks in each state."""
        cached, free = len(self._cached), len(self._free)
        return Counts(used=self.num_blocks - cached - free, cached=cached, free=free)

    def find(self, names: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of a chain of names. Takes nothing."""
        found: list[int] = []
        for name in names:
            block = self._by_name.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def lookup(self, names: Iterable[bytes]) -> list[int | None]:
        """Return the block of each name, None for those that are not known. Takes nothing."""
        return [self._by_name.get(name) for name in names]

    def cached(self) -> list[tuple[bytes, int]]:
        """Return names and blocks that nobody holds, the least recently used first."""
        return [(name, block) for block in self._cached if (name := self._name_of[block])]

    def idle(self, blocks: Sequence[int]) -> int:
        """Return how many of these blocks are cached, so that holding them uses up `available`."""
        return sum(1 for block in blocks if not self._references[block])

    def hold(self, blocks: Sequence[int]) -> None:
        """Add a reference to each block, which must be used or cached."""
        for block in blocks:
            if not self._references[block]:
                del self._cached[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Return `count` empty blocks, each with one reference.

        Raises:
            OutOfBlocks: fewer are available; nothing was taken.
        """
        if count > self.available:
            raise OutOfBlocks(f"{count} blocks wanted, {self.available} available")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each block of a block table."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] < 0:
                raise ValueError(f"block {block} was released more often than held")
            if not self._references[block]:
                if self._name_of[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def shared(self, block: int) -> bool:
        """Return whether a held block must not be written: others hold it, or may find it."""
        return self._references[block] > 1 or self._name_of[block] is not None

    def name(self, block: int, name: bytes) -> bool:
        """Make a full, held block findable; False when the name has a block: it keeps it."""
        if not self.caching or self._name_of[block] is not None or name in self._by_name:
            return False
        self._name_of[block] = name
        self._by_name[name] = block
        return True

    def check(self) -> None:
        """Verify every invariant.

        Raises:
            ValueError: one is broken; the pool cannot be trusted any more.
        """
        free, cached = set(self._free), set(self._cached)
        used = {block for block, count in enumerate(self._references) if count > 0}
        if len(free) != len(self._free):
            raise ValueError("a block is free twice")
        if free & cached or free & used or cached & used:
            raise ValueError("a block is in two states")
        if len(free) + len(cached) + len(used) != self.num_blocks:
            raise ValueError("a block is in no state")
        if any(self._name_of[block] is not None for block in free):
            raise ValueError("a free block has a name")
        if any(self._name_of[block] is None for block in cached):
            raise ValueError("a cached block has no name")
        named = {name: block for block, name in enumerate(self._name_of) if name is not None}
        if named != self._by_name:
            raise ValueError("names and blocks do not match")

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        name = self._name_of[block]
        if name is not None:
            del self._by_name[name]
            if self.spill is not None:
                self.spill.evicted(name, block)
            if self.log is not None:
                self.log.removed(name)
        self._name_of[block] = None
        return block
