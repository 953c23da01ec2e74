"""Paged attention on a GPU: prepares a step's tables once and launches the kernels per layer."""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton import next_power_of_2

from penstock_worker.attention.gpu import kernels
from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool

STEP = 32
"""Tokens of context read at a time."""
SPLIT = 512
"""Tokens of context per program of a decoding sequence."""
ROWS = 64
"""Rows of a prompt's tile: tokens times query heads per KV head."""
LEAST_ROWS = 16
"""What a matrix product on tensor cores has at least."""


class TritonAttention:
    """Attention over a pool in a GPU's memory.

    Args:
        pool: keeps the KV.
        windows: tokens that each layer sees; 0 for all.
        scale: of the scores.
    """

    def __init__(self, pool: KVPool, windows: tuple[int, ...], scale: float) -> None:
        self._pool = pool
        self._windows = windows
        self._scale = scale

    def begin(self, sequences: list[Sequence]) -> "TritonStep":
        """Return the attention of a step over these sequences."""
        return TritonStep(self._pool, self._windows, self._scale, sequences)


@dataclass(frozen=True)
class _Tiles:
    """Queries of one launch. of [tiles, 4]; rows of a tile in the kernel; splits 0 for none."""

    of: Tensor
    tokens: int
    """Of a tile, at most."""
    splits: int


class TritonStep:
    """Where each token of a step stores its KV, and which blocks it reads."""

    def __init__(
        self, pool: KVPool, windows: tuple[int, ...], scale: float, sequences: list[Sequence]
    ) -> None:
        self._pool, self._windows, self._scale = pool, windows, scale
        self._device = pool.keys[0].device
        self._tables = self._tensor(_padded([sequence.blocks for sequence in sequences]))
        self._slots = self._tensor(_slots(sequences, pool.block_size))
        self._sequences = sequences
        self._decoding = self._tensor([s.first_row for s in sequences if s.count == 1])
        self._tiles: list[_Tiles] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        self._store(layer, key, value)
        tokens, heads, head_dim = query.shape
        if not self._tiles:
            self._tiles = self._cut(heads // key.shape[1])
        out = query.new_empty(tokens, heads, head_dim)
        for tiles in self._tiles:
            self._attend(layer, tiles, query, out)
        return out.flatten(1)

    def _store(self, layer: int, key: Tensor, value: Tensor) -> None:
        key, value = key.flatten(1), value.flatten(1)
        width = key.shape[1]
        kernels.store[(len(key),)](
            self._pool.keys[layer],
            self._pool.values[layer],
            key,
            value,
            self._slots,
            key.stride(0),
            value.stride(0),
            WIDTH=width,
            PADDED=next_power_of_2(width),
        )

    def _cut(self, group: int) -> list[_Tiles]:
        """Cut the step's queries into tiles: decoding tokens, then those of prompts."""
        single, tiles = [], []
        longest, tokens = 0, max(1, ROWS // group)
        for index, sequence in enumerate(self._sequences):
            if sequence.count == 1:
                single.append([sequence.first_row, 1, sequence.computed, index])
                longest = max(longest, sequence.computed + 1)
                continue
            tiles += [
                [sequence.first_row + start, min(tokens, sequence.count - start),
                 sequence.computed + start, index]
                for start in range(0, sequence.count, tokens)
            ]  # fmt: skip
        found = []
        if single:
            found.append(_Tiles(self._tensor(single), 1, -(-longest // SPLIT)))
        if tiles:
            found.append(_Tiles(self._tensor(tiles), tokens, 0))
        return found

    def _attend(self, layer: int, tiles: _Tiles, query: Tensor, out: Tensor) -> None:
        keys = self._pool.keys[layer]
        _, kv_heads, head_dim = keys.shape
        tokens, heads, _ = query.shape
        group, padded = heads // kv_heads, max(LEAST_ROWS, next_power_of_2(head_dim))
        partial = out
        if tiles.splits:
            shape = (tokens, heads, tiles.splits, head_dim + 2)
            partial = torch.empty(shape, dtype=torch.float32, device=self._device)
        kernels.attend[(len(tiles.of), kv_heads, max(1, tiles.splits))](
            out,
            partial,
            query.contiguous(),
            keys,
            self._pool.values[layer],
            tiles.of,
            self._tables,
            self._tables.shape[1],
            self._scale,
            heads * head_dim,
            KV_HEADS=kv_heads,
            GROUP=group,
            HEAD_DIM=head_dim,
            PADDED_DIM=padded,
            BLOCK_SIZE=self._pool.block_size,
            WINDOW=self._windows[layer],
            ROWS=max(LEAST_ROWS, next_power_of_2(tiles.tokens * group)),
            STEP=STEP,
            SPLIT=SPLIT if tiles.splits else 0,
        )
        if tiles.splits:
            kernels.combine[(len(tiles.of), heads)](
                out, partial, self._decoding, tiles.splits,
                HEADS=heads, HEAD_DIM=head_dim, PADDED_DIM=padded,
            )  # fmt: skip

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32).to(self._device, non_blocking=True)


def _padded(tables: list[list[int]]) -> list[list[int]]:
    """Return block tables of equal length; what lies behind a table's end is not read."""
    columns = max(map(len, tables))
    return [[*table, *[0] * (columns - len(table))] for table in tables]


def _slots(sequences: list[Sequence], block_size: int) -> list[int]:
    """Return the slot of every token of a step."""
    return [
        sequence.blocks[position // block_size] * block_size + position % block_size
        for sequence in sequences
        for position in range(sequence.computed, sequence.computed + sequence.count)
    ]
