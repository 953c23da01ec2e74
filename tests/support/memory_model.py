"""A model without weights, whose KV is only what was written where; for draft models."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penstock_worker.model.interface import Batch


class MemoryModel:
    """Keeps each slot's token, and reads all of a sequence's for every prediction.

    Args:
        block_size: tokens per block.
        vocab_size: token ids run up to it.
        predict: the likeliest next token, from those before it.
    """

    def __init__(
        self, block_size: int, vocab_size: int, predict: Callable[[Sequence[int]], int]
    ) -> None:
        self.widest = 0
        self.computed = 0
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._predict = predict
        self._slots: dict[tuple[int, int], int] = {}

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        self.widest = max(self.widest, len(batch.tokens))
        self.computed += len(batch.tokens)
        wanted = set(batch.output_rows)
        found = []
        for part in batch.sequences:
            rows = range(part.first_row, part.first_row + part.count)
            assert [batch.positions[row] for row in rows] == list(
                range(part.computed, part.computed + part.count)
            )
            for place, row in enumerate(rows, part.computed):
                self._slots[self._slot(part.blocks, place)] = batch.tokens[row]
            for place, row in enumerate(rows, part.computed):
                if row in wanted:
                    seen = [self._slots[self._slot(part.blocks, at)] for at in range(place + 1)]
                    found.append(self._predict(seen))
        return found

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`: all of the mass lies on one token."""
        found = torch.full((len(batch.output_rows), self._vocab_size), -torch.inf)
        for row, token in zip(found, self.greedy(batch), strict=True):
            row[token] = 0.0
        return found

    def _slot(self, blocks: Sequence[int], place: int) -> tuple[int, int]:
        return blocks[place // self._block_size], place % self._block_size
