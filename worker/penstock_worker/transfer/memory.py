"""How blocks of KV are read and written as bytes, beside the engine's steps. No torch here.

Whoever reads holds the block, and whoever writes has allocated it: then no step touches it, and
no lock is needed.
"""

from collections.abc import Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class BlockMemory(Protocol):
    """Where the bytes of blocks are."""

    block_bytes: int

    def read(self, block: int) -> Sequence[memoryview]:
        """Return the bytes of a block, in pieces, as they are now."""

    def write(self, block: int, data: Buffer) -> None:
        """Put a block's bytes in."""
