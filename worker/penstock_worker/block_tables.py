"""Gives requests the blocks that their tables name, and takes them back.

A table begins with blocks of a cached prefix, which others may hold too, and grows while the
request is computed. The choices of a prompt share its blocks until one of them writes
(copy-on-write), and what lies behind a sliding window is let go.
"""

from collections.abc import Sequence

from penstock_worker.block_pool import BlockPool
from penstock_worker.request import Request
from penstock_worker.window import GONE, Window


class BlockTables:
    """The block tables of all requests.

    Args:
        pool: where blocks come from.
        window: tokens that the model's widest layer sees; 0 for all.
        sparse_tokens: that a token of an answer reads; 0 for all.
    """

    def __init__(self, pool: BlockPool, window: int, sparse_tokens: int = 0) -> None:
        self._pool = pool
        self._sparse_tokens = sparse_tokens
        self._window = Window(window, pool.block_size)

    def fits(self, request: Request, step: int) -> bool:
        """Return whether a request could run to its end, alone, at most `step` tokens at a time."""
        if request.keep:  # all of its prompt, to the end
            return self._count(request.max_length) <= self._pool.num_blocks
        return self._window.most_blocks(request.max_length, step) <= self._pool.num_blocks

    def cached_prefix(self, request: Request) -> list[int]:
        """Return the table of the longest prefix whose KV is there."""
        if not self._pool.caching or request.unscored:
            return []
        # At least one token must be computed, or there would be nothing to sample from.
        full = self._common(request, len(request.tokens) - 1)
        names = request.full_block_names(self._pool.block_size, full)
        if request.keep or not self._window.tokens:
            return self._pool.find(names)
        return self._window.longest(self._pool.lookup(names))

    def begin(self, request: Request, prefix: list[int], length: int) -> bool:
        """Give a request a cached prefix and room for `length` tokens; False if there is none."""
        behind = prefix.count(GONE)
        held = prefix[behind:]
        fresh = self._count(length) - len(prefix)
        if fresh + self._pool.idle(held) > self._pool.available:
            return False
        self._pool.hold(held)
        request.blocks = prefix + self._pool.allocate(fresh)
        request.behind = behind
        request.computed = len(prefix) * self._pool.block_size
        request.named = len(prefix)
        return True

    def missing(self, request: Request, length: int) -> int:
        """Return the blocks that a request needs to have room for `length` tokens."""
        copied = request.forked and self._writes_shared(request)
        return max(0, self._count(length) - len(request.blocks)) + copied

    def grow(self, request: Request, length: int) -> list[tuple[int, int]]:
        """Make room for `length` tokens; return the blocks to copy, as (from, to).

        After a fork, the block that is written next may be shared: the request gets its own. The
        shared one stays held until `copied`: a tier may load into whatever nobody holds.
        """
        copies = [self._own(request)] if request.forked and self._writes_shared(request) else []
        request.forked = False
        request.blocks += self._pool.allocate(self.missing(request, length))
        return copies

    def copied(self, copies: Sequence[tuple[int, int]]) -> None:
        """Let go of the blocks that were copied from."""
        self._pool.release([source for source, _ in copies])

    def grow_at_most(self, request: Request, length: int, blocks: int) -> int:
        """Make room for `length` tokens if that takes no more blocks; return the tokens held."""
        missing = self._count(length) - len(request.blocks)
        if 0 < missing <= blocks:
            request.blocks += self._pool.allocate(missing)
        return len(request.blocks) * self._pool.block_size

    def name(self, request: Request) -> None:
        """Make the blocks that are full findable."""
        full = self._common(request, request.computed)
        if not self._pool.caching or full <= request.named:
            return
        names = request.full_block_names(self._pool.block_size, full)
        for index in range(request.named, full):
            new = self._pool.name(request.blocks[index], names[index])
            if new and self._pool.log is not None:
                self._pool.log.stored(names, request.tokens, index, request.adapter)
        request.named = full

    def sharable(self, first: Request) -> bool:
        """Return whether a computed prompt is there as far as its last token sees.

        One that began with output may have let go of it.
        """
        return first.behind <= self._window.behind(first.prompt_length - 1)

    def share(self, first: Request, other: Request) -> None:
        """Let another choice have the computed prompt of the first, but for its last token."""
        other.blocks = first.blocks[: self._count(first.prompt_length)]
        other.behind = first.behind
        self._pool.hold(other.blocks[other.behind :])
        first.forked = other.forked = True
        other.computed = first.prompt_length - 1
        other.named = other.computed // self._pool.block_size

    def let_go(self, request: Request) -> None:
        """Release what no layer will read again, unless another worker is to get it."""
        behind = self._window.behind(request.computed)
        if behind <= request.behind or request.keep:
            return
        passed = slice(request.behind, behind)
        self._pool.release(request.blocks[passed])
        request.blocks[passed] = [GONE] * (behind - request.behind)
        request.behind = behind

    def release(self, request: Request) -> None:
        """Take everything back; full blocks stay findable."""
        self._pool.release(request.blocks[request.behind :])
        request.blocks = []
        request.behind = 0
        request.computed = 0
        request.named = 0
        request.drafts = ()
        request.forked = False

    def _common(self, request: Request, tokens: int) -> int:
        """Return how many of the blocks that so many tokens fill have the same KV in any request.

        What a token of an answer computes, having read a part of its context, is not what it would
        in a prompt.
        """
        if self._sparse_tokens:
            tokens = min(tokens, max(request.prompt_length, self._sparse_tokens))
        return tokens // self._pool.block_size

    def _own(self, request: Request) -> tuple[int, int]:
        """Give a request a block of its own for the shared one that it writes next."""
        place = request.computed // self._pool.block_size
        shared = request.blocks[place]
        (own,) = self._pool.allocate(1)
        request.blocks[place] = own
        return shared, own

    def _writes_shared(self, request: Request) -> bool:
        place = request.computed // self._pool.block_size
        return place < len(request.blocks) and self._pool.shared(request.blocks[place])

    def _count(self, tokens: int) -> int:
        return -(-tokens // self._pool.block_size)
