"""The bytes of blocks of a KV pool in memory."""

import torch
from torch import Tensor

from penstock_worker.attention.pool import KVPool


class PoolMemory:
    """The blocks of a KV pool: of each layer in turn, keys and values."""

    def __init__(self, pool: KVPool) -> None:
        tensors = [t for pair in zip(pool.keys, pool.values, strict=True) for t in pair]
        self._buffers = [_bytes_of(tensor) for tensor in tensors]
        self._sizes = [
            len(b) // len(t) * pool.block_size for b, t in zip(self._buffers, tensors, strict=True)
        ]
        self.block_bytes = sum(self._sizes)

    def read(self, block: int) -> list[memoryview]:
        """See `BlockMemory.read`."""
        return [
            buffer[block * size : (block + 1) * size]
            for buffer, size in zip(self._buffers, self._sizes, strict=True)
        ]

    def write(self, block: int, data: bytearray) -> None:
        """See `BlockMemory.write`."""
        start = 0
        for piece in self.read(block):
            piece[:] = memoryview(data)[start : start + len(piece)]
            start += len(piece)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, not a copy."""
    return memoryview(tensor.view(torch.uint8).numpy().data).cast("B")
