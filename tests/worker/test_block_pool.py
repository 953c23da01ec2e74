"""The block pool keeps its invariants under any order of operations.

`BlockPool.check()` states them; here a state machine tries to break them and a model of the
references says who holds what.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from penstock_worker.block_pool import BlockPool, OutOfBlocks

NAMES = st.integers(0, 12).map(lambda n: bytes([n]) * 16)


class PoolMachine(RuleBasedStateMachine):
    """Allocates, names, shares and releases at random, in a pool that is always nearly full."""

    tables: Bundle[list[int]] = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8, 4)
        self.held: list[list[int]] = []

    @rule(target=tables, count=st.integers(1, 5))
    def allocate(self, count: int) -> Any:
        before = self.pool.counts()
        try:
            blocks = self.pool.allocate(count)
        except OutOfBlocks:
            assert count > before.free + before.cached
            assert self.pool.counts() == before
            return []
        in_use = {block for table in self.held for block in table}
        assert not in_use & set(blocks)
        self.held.append(blocks)
        return blocks

    @rule(table=tables, names=st.lists(NAMES, min_size=1, max_size=5))
    def name(self, table: list[int], names: list[bytes]) -> None:
        if table in self.held:
            for block, name in zip(table, names, strict=False):
                self.pool.name(block, name)

    @rule(target=tables, names=st.lists(NAMES, max_size=5, unique=True))  # as in a hash chain
    def share(self, names: list[bytes]) -> list[int]:
        found = self.pool.find(names)
        before = self.pool.available
        idle = self.pool.idle(found)
        self.pool.hold(found)
        assert self.pool.available == before - idle
        self.held.append(found)
        return found

    @rule(target=tables, table=consumes(tables), count=st.integers(1, 4))
    def let_go(self, table: list[int], count: int) -> list[int]:
        """Release the head of a table, as behind a window."""
        if table not in self.held:
            return []
        self.held.remove(table)
        self.pool.release(table[:count])
        self.held.append(table[count:])
        return table[count:]

    @rule(names=st.lists(NAMES, max_size=5, unique=True))
    def look_up(self, names: list[bytes]) -> None:
        found = self.pool.lookup(names)
        prefix = self.pool.find(names)
        assert found[: len(prefix)] == prefix
        assert found[len(prefix) : len(prefix) + 1] in ([], [None])

    @precondition(lambda self: self.held)
    @rule(table=consumes(tables))
    def release(self, table: list[int]) -> None:
        if table in self.held:
            self.held.remove(table)
            self.pool.release(table)

    @invariant()
    def states_add_up(self) -> None:
        self.pool.check()
        counts = self.pool.counts()
        assert counts.used == len({block for table in self.held for block in table})
        assert counts.used + counts.cached + counts.free == self.pool.num_blocks


PoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
test_the_pool_keeps_its_invariants = PoolMachine.TestCase


def named(pool: BlockPool, *names: bytes) -> list[int]:
    """Allocate and name a chain of blocks, then let it go."""
    blocks = pool.allocate(len(names))
    for block, name in zip(blocks, names, strict=True):
        pool.name(block, name)
    pool.release(blocks)
    return blocks


def test_a_prefix_loses_its_tail_before_its_head() -> None:
    pool = BlockPool(3, 4)
    blocks = named(pool, b"a", b"b", b"c")
    pool.allocate(1)
    assert pool.find([b"a", b"b", b"c"]) == blocks[:2]


def test_the_least_recently_used_prefix_goes_first() -> None:
    pool = BlockPool(2, 4)
    (old,) = named(pool, b"old")
    named(pool, b"new")
    pool.hold([old])
    pool.release([old])  # used again: now the other one is older
    pool.allocate(1)
    assert pool.find([b"old"]) == [old]
    assert pool.find([b"new"]) == []


def test_without_caching_nothing_is_remembered() -> None:
    pool = BlockPool(2, 4, caching=False)
    named(pool, b"a")
    assert pool.find([b"a"]) == []
    assert pool.counts().free == 2


def test_releasing_twice_is_an_error() -> None:
    pool = BlockPool(2, 4)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(ValueError, match="more often"):
        pool.release(blocks)
