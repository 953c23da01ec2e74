"""Cuts a step into what the kernels' programs take: whole numbers in flat arrays. No torch.

A tile is some tokens of one sequence: (first row, tokens, position of the first, where its block
table begins). Block tables lie one after another, so nothing is padded to the longest; a step of
decoding alone can be padded by tiles without a token, to a size for which a launch is recorded.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_worker.attention.interface import Sequence

Numbers = NDArray[np.int32]

NOWHERE = -1
"""Slot of a row that is only there to fill up; nothing is stored for it."""
SPLIT = 512
"""Tokens of context per program of a decoding sequence, at least."""
MOST_SPLITS = 64
ROWS = 64
"""Rows of a prompt's tile: tokens times query heads per KV head."""
LEAST_ROWS = 16
"""What a matrix product on tensor cores has at least."""
HEAD_BYTES = 256
"""Of a query's head, up to which so many rows fit into registers and shared memory."""


@dataclass(frozen=True)
class Tiles:
    """A step's numbers."""

    slots: Numbers
    """[rows]: where each token's KV is stored."""
    decoding: Numbers
    """[sequences that compute one token, 4]"""
    chunks: Numbers
    """[tiles of the others, 4]"""
    tables: Numbers
    """[blocks of all sequences]"""
    longest: int
    """Tokens of the longest context that decodes."""

    @property
    def arrays(self) -> list[Numbers]:
        """What the kernels read; the part that grows with the context comes last."""
        return [self.slots, self.decoding, self.chunks, self.tables]

    @property
    def only_decodes(self) -> bool:
        """Whether every sequence computes one token."""
        return not len(self.chunks)

    def padded(self, rows: int) -> "Tiles":
        """Return a step of decoding alone with more rows, which compute nothing."""
        more = rows - len(self.slots)
        filling = np.zeros((more, 4), np.int32)
        filling[:, 0] = np.arange(len(self.slots), rows)
        return Tiles(
            slots=np.pad(self.slots, (0, more), constant_values=NOWHERE),
            decoding=np.concatenate([self.decoding, filling]),
            chunks=self.chunks,
            tables=self.tables,
            longest=self.longest,
        )


def cut(sequences: Many[Sequence], block_size: int, tile: int) -> Tiles:
    """Return the tiles of a step; those of chunks have `tile` tokens at most."""
    tables: list[Numbers] = []
    decoding: list[tuple[int, int, int, int]] = []
    chunks: list[tuple[int, int, int, int]] = []
    begins = [0]
    for sequence in sequences:
        end = sequence.computed + sequence.count
        tables.append(np.array(sequence.blocks[: -(-end // block_size)], np.int32))
        if sequence.count == 1:
            decoding.append((sequence.first_row, 1, sequence.computed, begins[-1]))
        else:
            chunks += _chunks(sequence, begins[-1], tile)
        begins.append(begins[-1] + len(tables[-1]))
    joined = np.concatenate([np.zeros(0, np.int32), *tables])
    return Tiles(
        slots=_slots(sequences, joined, begins[:-1], block_size),
        decoding=np.array(decoding, np.int32).reshape(-1, 4),
        chunks=np.array(chunks, np.int32).reshape(-1, 4),
        tables=joined,
        longest=max((position + 1 for _, _, position, _ in decoding), default=0),
    )


def _slots(
    sequences: Many[Sequence], tables: Numbers, begins: list[int], block_size: int
) -> Numbers:
    """Return the slot of every row. tables: all block tables; begins: where each one begins."""
    counts = [sequence.count for sequence in sequences]
    # The position of a row is its number, less that of its sequence's first, plus what came before.
    shifts = np.array([s.computed - s.first_row for s in sequences], np.int64)
    positions = np.arange(sum(counts)) + np.repeat(shifts, counts)
    blocks = tables[np.repeat(np.array(begins, np.int64), counts) + positions // block_size]
    found: Numbers = (blocks * block_size + positions % block_size).astype(np.int32)
    return found


def tile_rows(head_bytes: int) -> int:
    """Return the rows of a prompt's tile whose heads take so many bytes each.

    Fewer for wider ones: what Triton keeps in registers would spill, and in shared memory not fit.
    """
    rows = ROWS
    while head_bytes > HEAD_BYTES and rows > LEAST_ROWS:
        rows, head_bytes = rows // 2, head_bytes // 2
    return rows


def split_tokens(max_model_len: int) -> int:
    """Return how many tokens of context one program of a decoding sequence reads.

    A power of two that depends on nothing else, so that a token comes out the same in any batch.
    """
    split = SPLIT
    while split * MOST_SPLITS < max_model_len:
        split *= 2
    return split


def _chunks(sequence: Sequence, begin: int, tile: int) -> list[tuple[int, int, int, int]]:
    return [
        (
            sequence.first_row + start,
            min(tile, sequence.count - start),
            sequence.computed + start,
            begin,
        )
        for start in range(0, sequence.count, tile)
    ]
