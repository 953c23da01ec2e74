"""Paged attention on a GPU: launches the kernels, layer by layer, over tables that are there."""

from collections.abc import Sequence as Many

import torch
from torch import Tensor
from triton import next_power_of_2

from penstock_worker.attention.gpu import kernels
from penstock_worker.attention.gpu.staging import stage
from penstock_worker.attention.gpu.tiles import LEAST_ROWS, Tiles, cut, split_tokens, tile_rows
from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool

STEP = 32
"""Tokens of context read at a time."""


class TritonAttention:
    """Attention over a pool in a GPU's memory.

    Args:
        pool: keeps the KV.
        windows: tokens that each layer sees; 0 for all.
        scale: of the scores.
        cap: that bends scores; 0 for none.
        heads: that ask; those of the pool are shared by groups of them.
        max_model_len: longest context in tokens.
    """

    def __init__(
        self,
        pool: KVPool,
        windows: tuple[int, ...],
        scale: float,
        *,
        heads: int,
        max_model_len: int,
        cap: float = 0.0,
    ) -> None:
        self.pool = pool
        self.windows = windows
        self.scale = scale
        self.cap = cap
        _, kv_heads, head_dim = pool.keys[0].shape
        self.group = heads // kv_heads
        self.tile = max(1, tile_rows(head_dim * pool.dtype.itemsize) // self.group)
        self.split = split_tokens(max_model_len)
        self.most_splits = -(-max_model_len // self.split)

    def cut(self, sequences: Many[Sequence]) -> Tiles:
        """Return the tiles of a step over these sequences."""
        return cut(sequences, self.pool.block_size, self.tile)

    def begin(self, sequences: list[Sequence]) -> "TritonStep":
        """Return the attention of a step over these sequences."""
        tiles = self.cut(sequences)
        staged = stage(tiles.arrays, self.pool.keys[0].device)
        return TritonStep(self, staged, -(-tiles.longest // self.split))


class TritonStep:
    """Where each token of a step stores its KV, and which blocks it reads.

    Args:
        of: the attention.
        staged: `Tiles.arrays`, on the device.
        splits: of the longest context that decodes, or more.
    """

    def __init__(self, of: TritonAttention, staged: list[Tensor], splits: int) -> None:
        self._of = of
        self._slots, self._decoding, self._chunks, self._tables = staged
        self._splits = splits

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        self._store(layer, key.flatten(1), value.flatten(1))
        query = query.contiguous()
        out = torch.empty_like(query)
        if len(self._decoding):
            self._attend_split(layer, query, out)
        if len(self._chunks):
            self._launch(layer, query, out, self._chunks, self._of.tile, 0, out)
        return out.flatten(1)

    def _store(self, layer: int, key: Tensor, value: Tensor) -> None:
        pool, width = self._of.pool, key.shape[1]
        kernels.store[(len(key),)](
            pool.keys[layer],
            pool.values[layer],
            key,
            value,
            self._slots,
            key.stride(0),
            value.stride(0),
            WIDTH=width,
            PADDED=next_power_of_2(width),
        )

    def _attend_split(self, layer: int, query: Tensor, out: Tensor) -> None:
        """Attend where one token is computed; several programs share its context."""
        tokens, heads, head_dim = query.shape
        shape = (tokens, heads, self._splits, head_dim + 2)
        partial = torch.empty(shape, dtype=torch.float32, device=query.device)
        self._launch(layer, query, out, self._decoding, 1, self._of.split, partial)
        kernels.combine[(len(self._decoding), heads)](
            out,
            partial,
            self._decoding,
            self._splits,
            HEADS=heads,
            HEAD_DIM=head_dim,
            PADDED_DIM=next_power_of_2(head_dim),
            SPLIT=self._of.split,
        )

    def _launch(
        self,
        layer: int,
        query: Tensor,
        out: Tensor,
        tiles: Tensor,
        tokens: int,
        split: int,
        partial: Tensor,
    ) -> None:
        keys, of = self._of.pool.keys[layer], self._of
        _, kv_heads, head_dim = keys.shape
        kernels.attend[(len(tiles), kv_heads, self._splits if split else 1)](
            out,
            partial,
            query,
            keys,
            of.pool.values[layer],
            tiles,
            self._tables,
            of.scale,
            query.stride(0),
            KV_HEADS=kv_heads,
            GROUP=of.group,
            HEAD_DIM=head_dim,
            PADDED_DIM=max(LEAST_ROWS, next_power_of_2(head_dim)),
            BLOCK_SIZE=of.pool.block_size,
            WINDOW=of.windows[layer],
            CAP=of.cap,
            ROWS=max(LEAST_ROWS, next_power_of_2(tokens * of.group)),
            STEP=STEP,
            SPLIT=split,
        )
