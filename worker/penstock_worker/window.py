"""Which KV a model whose every layer slides will not read again. Pure.

A token of such a model sees itself and `tokens` - 1 before it. Blocks wholly behind what the next
token sees are let go, so a sequence holds no more than a window, however long it becomes. Where one
layer sees everything, nothing can be let go: a block holds the KV of all layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Attention reads KV from a multiple of so many tokens on (CHUNK of the native kernels, twice the
GPU kernels' STEP), so that a token's sum has the same parts whatever is computed with it."""

GONE = -1
"""What a block table has in the place of a block that was let go."""


@dataclass(frozen=True)
class Window:
    """How far back a model reads.

    Args:
        tokens: that its widest layer sees; 0 for all.
        block_size: tokens per block.
    """

    tokens: int
    block_size: int

    def behind(self, computed: int) -> int:
        """Return how many leading blocks nobody reads once so many tokens are computed."""
        if not self.tokens:
            return 0
        first = max(0, computed + 1 - self.tokens)
        return first // ALIGNMENT * ALIGNMENT // self.block_size

    def most_blocks(self, length: int, step: int) -> int:
        """Return the blocks that a sequence holds at most until it has `length` tokens.

        Args:
            length: of the whole sequence.
            step: tokens that are computed at a time, at most.
        """
        whole = -(-length // self.block_size)
        if not self.tokens:
            return whole
        seen = self.tokens - 1 + ALIGNMENT - 1 + step
        return min(whole, -(-(seen + self.block_size - 1) // self.block_size))

    def longest(self, found: Sequence[int | None]) -> list[int]:
        """Return the block table of the longest prefix that can be continued.

        Args:
            found: the cached block of each of a sequence's names, None where there is none. Those
                behind the window may be missing.
        """
        best = begin = 0
        for index, block in enumerate(found):
            if block is None:
                begin = index + 1
            elif begin <= self.behind((index + 1) * self.block_size):
                best = index + 1
        behind = self.behind(best * self.block_size)
        return [GONE] * behind + [block for block in found[behind:best] if block is not None]
