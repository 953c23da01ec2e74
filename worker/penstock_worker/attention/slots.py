"""Which slots of the pool a step's rows are stored in, and which they read, as tensors.

Sequences that compute a single token (decoding) are padded to the longest and handled together; the
others are handled one by one.
"""

from array import array
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.attention.interface import Sequence


@dataclass(frozen=True)
class Decoding:
    """The sequences of a step that compute one token, padded to the longest.

    rows [count] of the flat batch, None when it has no others; slots [count · longest]; masks, by
    window, [count, 1, 1, longest], added to the scores, float32, None where every
    slot is seen.
    """

    count: int
    rows: Tensor | None
    slots: Tensor
    masks: dict[int, Tensor | None]


@dataclass(frozen=True)
class Chunk:
    """A sequence that computes several tokens; masks by window, None is plain causal."""

    rows: slice
    slots: Tensor
    masks: dict[int, Tensor | None]


class StepSlots:
    """Where each row of a step stores its KV and which slots it reads.

    Args:
        sequences: of the step.
        block_size: of the pool.
        windows: that layers have; 0 for all tokens.
    """

    def __init__(
        self,
        sequences: list[Sequence],
        block_size: int,
        windows: Collection[int],
    ) -> None:
        self._windows = windows
        single = [sequence for sequence in sequences if sequence.count == 1]
        self.store = torch.empty(sum(s.count for s in sequences), dtype=torch.long)
        self.chunks = [self._chunk(s, block_size) for s in sequences if s.count > 1]
        self.decoding = self._decode_all(single, block_size) if single else None

    def _chunk(self, sequence: Sequence, block_size: int) -> Chunk:
        rows = slice(sequence.first_row, sequence.first_row + sequence.count)
        total = sequence.computed + sequence.count
        slots = _slots(torch.tensor(sequence.blocks), block_size)[:total]
        self.store[rows] = slots[sequence.computed :]
        masks: dict[int, Tensor | None] = dict.fromkeys(self._windows)
        positions = torch.arange(sequence.computed, total)[:, None]
        for window in masks:
            if sequence.computed or 0 < window < total:
                masks[window] = _seen(positions, total, window)
        return Chunk(rows, slots, masks)

    def _decode_all(self, single: list[Sequence], block_size: int) -> Decoding:
        longest = max(sequence.computed for sequence in single) + 1
        width = -(-longest // block_size)
        padding = array("q", bytes(8 * width))
        table = array("q")
        for sequence in single:
            blocks = sequence.blocks[:width]
            table.extend(blocks)
            table.extend(padding[len(blocks) :])
        slots = _slots(torch.frombuffer(table, dtype=torch.long), block_size)
        slots = slots.view(len(single), -1)[:, :longest]
        last = torch.tensor([sequence.computed for sequence in single])[:, None]
        rows = torch.tensor([sequence.first_row for sequence in single])
        self.store[rows] = slots.gather(1, last)[:, 0]
        masks: dict[int, Tensor | None] = {}
        for window in self._windows:
            seen = _seen(last, longest, window)
            mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
            masks[window] = None if bool(seen.all()) else mask[:, None, None]
        return Decoding(
            count=len(single),
            rows=rows if self.chunks else None,
            slots=slots.reshape(-1),
            masks=masks,
        )


def _seen(positions: Tensor, total: int, window: int) -> Tensor:
    """Return which slots each position sees. positions [rows, 1]; result [rows, total]."""
    slots = torch.arange(total)[None]
    seen = slots <= positions
    return seen & (slots > positions - window) if window else seen


def _slots(blocks: Tensor, block_size: int) -> Tensor:
    """Return the slots of blocks, in order, flat; any for those that are gone: they are masked."""
    return (blocks.clamp(min=0)[:, None] * block_size + torch.arange(block_size)).view(-1)
