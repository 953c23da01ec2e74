"""The bytes of blocks of a KV pool: in place in a CPU's memory, copied out of a GPU's and in.

Both have the same layout, so a worker on a CPU can take over from one on a GPU.
"""

import torch
from torch import Tensor

from penstock_worker.attention.pool import KVPool
from penstock_worker.transfer.memory import BlockMemory, Buffer


def block_memory(pool: KVPool) -> BlockMemory:
    """Return the blocks of a pool, wherever it is."""
    return PoolMemory(pool) if pool.device.type == "cpu" else DevicePoolMemory(pool)


class PoolMemory:
    """The blocks of a KV pool: of each layer in turn, keys and values, or latents; then scales."""

    def __init__(self, pool: KVPool) -> None:
        self._buffers = [_bytes_of(tensor) for tensor in pool.stored]
        self._sizes = [len(buffer) // pool.num_blocks for buffer in self._buffers]
        self.block_bytes = sum(self._sizes)

    def read(self, block: int) -> list[memoryview]:
        """See `BlockMemory.read`."""
        return [
            buffer[block * size : (block + 1) * size]
            for buffer, size in zip(self._buffers, self._sizes, strict=True)
        ]

    def write(self, block: int, data: Buffer) -> None:
        """See `BlockMemory.write`."""
        start = 0
        for piece in self.read(block):
            piece[:] = memoryview(data)[start : start + len(piece)]
            start += len(piece)


class DevicePoolMemory:
    """The same for a pool in a device's memory.

    Copies are made in the order of the device's other work, whichever thread asks: PyTorch's
    threads share a stream. So what a step has written is read, and what is written, a later one
    reads.
    """

    def __init__(self, pool: KVPool) -> None:
        self._tensors = pool.stored
        self._dtype = pool.dtype
        self._slots = pool.block_size
        self._sizes = [t[0].numel() * pool.block_size for t in self._tensors]
        self.block_bytes = sum(self._sizes) * pool.dtype.itemsize

    def read(self, block: int) -> list[memoryview]:
        """See `BlockMemory.read`."""
        return [_bytes_of(torch.cat([piece.flatten() for piece in self._pieces(block)]).cpu())]

    def write(self, block: int, data: Buffer) -> None:
        """See `BlockMemory.write`."""
        arrived = torch.frombuffer(data, dtype=self._dtype).to(self._tensors[0].device)
        parts = torch.split(arrived, self._sizes)
        for piece, part in zip(self._pieces(block), parts, strict=True):
            piece.copy_(part.view_as(piece))

    def _pieces(self, block: int) -> list[Tensor]:
        begin = block * self._slots
        return [tensor[begin : begin + self._slots] for tensor in self._tensors]


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, not a copy."""
    return memoryview(tensor.view(torch.uint8).numpy().data).cast("B")
