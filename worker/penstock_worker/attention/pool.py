"""The memory that holds every layer's keys and values, whoever computes attention over it."""

import contextlib
import mmap
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from penstock_worker.attention.stored import quantised, vector_bytes

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


def token_bytes(shape: KVShape, dtype: torch.dtype) -> int:
    """Return the bytes of a token's KV in all layers, as `KVPool` stores it."""
    kept = 1 if shape.latent_rank else 2
    vectors = kept * shape.num_layers * shape.num_kv_heads
    return vectors * vector_bytes(shape.head_dim, dtype)


class KVPool:
    """Keys and values of all layers, by slot.

    Each layer has two tensors of shape [slots, kv_heads, head_dim], where slot = block · block_size
    + offset: a block is contiguous, and a sequence's KV is one `index_select`. A CPU's memory is
    taken only as blocks are first written, a GPU's at once.

    Of latent attention one tensor is stored: keys are [slots, 1, latent and rotary key], and values
    are a view of their latents.

    Bytes have scales, key_scales and value_scales, [blocks, kv_heads, block_size] in float32: those
    of a head's tokens lie beside each other, for a block of them is one line of a CPU's cache.

    Args:
        num_layers, num_kv_heads, head_dim: shape of the model's KV.
        latent_rank: numbers of a key that are its value, too; 0 where values are stored.
        num_blocks, block_size: shape of the pool.
        dtype: of the stored KV; int8 has scales (`stored.quantised`), latents cannot be that.
        device: in whose memory it is.
        bounded: layers that keep bounds of each block's keys, [blocks, kv_heads, 2, head_dim]: the
            smallest numbers, then the largest. The native kernels fill them in.
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
        bounded: Collection[int] = (),
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
        self.key_scales: list[Tensor] = []
        self.value_scales: list[Tensor] = []
        if dtype is torch.int8:
            scales = (num_blocks, num_kv_heads, block_size)
            for kept in (self.key_scales, self.value_scales):
                kept += [_zeros(scales, torch.float32, device) for _ in range(num_layers)]
                self.stored = [*self.stored, *kept]
        bounds = (num_blocks, num_kv_heads, 2, head_dim)
        self.bounds = {layer: _zeros(bounds, dtype, device) for layer in bounded}
        self.stored = [*self.stored, *self.bounds.values()]
        self.num_blocks = num_blocks
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
        bounded: Collection[int] = (),
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
            bounded=bounded,
        )

    def copy(self, source: int, target: int) -> None:
        """Copy a block's keys and values, in all layers."""
        for kept in self.stored:
            blocks = kept.view(self.num_blocks, -1)
            blocks[target] = blocks[source]

    def put(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values of slots, [slots, kv_heads, head_dim]; not latents."""
        if self.key_scales:
            at = self._scales_of(slots)
            key, self.key_scales[layer][at] = quantised(key)
            value, self.value_scales[layer][at] = quantised(value)
        self.keys[layer].index_copy_(0, slots, key.to(self.dtype))
        self.values[layer].index_copy_(0, slots, value.to(self.dtype))

    def take(self, layer: int, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return keys and values of slots, [slots, kv_heads, head_dim], in the type `dtype`."""
        keys = self.keys[layer].index_select(0, slots).to(dtype)
        values = self.values[layer].index_select(0, slots).to(dtype)
        if self.key_scales:
            at = self._scales_of(slots)
            keys *= self.key_scales[layer][at][..., None]
            values *= self.value_scales[layer][at][..., None]
        return keys, values

    def _scales_of(self, slots: Tensor) -> tuple[Tensor, slice, Tensor]:
        """Return what picks the scales of slots, [slots, kv_heads]."""
        return slots // self.block_size, slice(None), slots % self.block_size


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
