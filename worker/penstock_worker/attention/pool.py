"""The memory that holds every layer's keys and values, whoever computes attention over it."""

import contextlib
import mmap
from typing import Protocol

import torch
from torch import Tensor

CPU = torch.device("cpu")


class BlockCopier(Protocol):
    """Keeps blocks of KV, and copies one where two requests write it."""

    def copy(self, source: int, target: int) -> None:
        """Copy a block's keys and values, in all layers."""


class KVShape(Protocol):
    """What a model's KV looks like."""

    @property
    def num_layers(self) -> int:
        """Layers that keep some."""

    @property
    def num_kv_heads(self) -> int:
        """Heads of a layer."""

    @property
    def head_dim(self) -> int:
        """Numbers of a head's key."""

    @property
    def latent_rank(self) -> int:
        """Numbers of a key that are its value, too; 0 where values are stored."""


class KVPool:
    """Keys and values of all layers, by slot.

    Each layer has two tensors of shape [slots, kv_heads, head_dim], where slot = block · block_size
    + offset: a block is contiguous, and a sequence's KV is one `index_select`. A CPU's memory is
    taken only as blocks are first written, a GPU's at once.

    Of latent attention one tensor is stored: keys are [slots, 1, latent and rotary key], and values
    are a view of their latents.

    Args:
        num_layers, num_kv_heads, head_dim: shape of the model's KV.
        latent_rank: numbers of a key that are its value, too; 0 where values are stored.
        num_blocks, block_size: shape of the pool.
        dtype: of the stored KV.
        device: in whose memory it is.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device = CPU,
        latent_rank: int = 0,
    ) -> None:
        shape = (num_blocks * block_size, num_kv_heads, head_dim)
        self.keys = [_zeros(shape, dtype, device) for _ in range(num_layers)]
        if latent_rank:
            self.values = [keys[..., :latent_rank] for keys in self.keys]
            self.stored = self.keys
        else:
            self.values = [_zeros(shape, dtype, device) for _ in range(num_layers)]
            pairs = zip(self.keys, self.values, strict=True)
            self.stored = [tensor for pair in pairs for tensor in pair]
        self.block_size = block_size
        self.dtype = dtype
        self.device = device

    @classmethod
    def of(
        cls,
        shape: KVShape,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device = CPU,
    ) -> "KVPool":
        """Return memory for the KV of a model."""
        return cls(
            num_layers=shape.num_layers,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=dtype,
            device=device,
            latent_rank=shape.latent_rank,
        )

    def copy(self, source: int, target: int) -> None:
        """Copy a block's keys and values, in all layers."""
        size = self.block_size
        for kept in self.stored:
            kept[target * size : (target + 1) * size] = kept[source * size : (source + 1) * size]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return _lazy_zeros(shape, dtype)
    return torch.zeros(shape, dtype=dtype, device=device)


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros that take memory only once they are written, unlike torch's own.

    Huge pages, where the system has them: blocks lie anywhere in the pool, and with pages of four
    kilobytes reading them would miss the TLB all the time.
    """
    size = max(1, torch.Size(shape).numel() * dtype.itemsize)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel may be built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
