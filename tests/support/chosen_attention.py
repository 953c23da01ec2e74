"""Attention of answers to chosen blocks, as the paper has it, in plain PyTorch: row by row."""

import math

import torch
from torch import Tensor

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.sparsity import Sparsity


class ChosenAttention:
    """An attention backend to compare with; `margin` is how near two blocks came to a tie.

    Args:
        pool: keeps the KV.
        sparsity: what answers read.
        scale: of scores.
    """

    def __init__(self, pool: KVPool, sparsity: Sparsity, scale: float) -> None:
        self._pool, self._sparsity, self._scale = pool, sparsity, scale
        self._sequences: list[Sequence] = []
        self.margin = math.inf
        self.left_out = 0

    def begin(self, sequences: list[Sequence]) -> "ChosenAttention":
        self._sequences = sequences
        return self

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size, found = self._pool.block_size, torch.empty_like(query)
        for of in self._sequences:
            blocks = torch.tensor(of.blocks)
            slots = (blocks[:, None] * size + torch.arange(size)).view(-1)
            rows = slice(of.first_row, of.first_row + of.count)
            stored = slots[of.computed : of.computed + of.count]
            self._pool.put(layer, stored, key[rows], value[rows])
            for row in range(of.count):
                seen = slots[: of.computed + row + 1]
                kept = self._pool.take(layer, seen, query.dtype)
                found[of.first_row + row] = self._row(
                    layer, query[of.first_row + row], *kept, of.prompt
                )
        return found.flatten(1)

    def _row(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, prompt: int) -> Tensor:
        """Attend with one token. query [heads, dim]; keys, values [tokens, kv_heads, dim]."""
        position, group = len(keys) - 1, len(query) // keys.shape[1]
        found = torch.empty_like(query)
        for head in range(keys.shape[1]):
            heads = slice(head * group, (head + 1) * group)
            seen = torch.ones(len(keys), dtype=torch.bool)
            if layer in self._sparsity.layers and position >= max(prompt, self._sparsity.tokens):
                seen = self._chosen(query[heads], keys[:, head])
                self.left_out += int((~seen).sum())
            scores = query[heads] @ keys[seen, head].T * self._scale
            found[heads] = scores.softmax(-1) @ values[seen, head]
        return found

    def _chosen(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return which tokens are read: the first block, the last two, and those worth most."""
        size, count = self._pool.block_size, self._sparsity.blocks
        full = len(keys) // size if len(keys) % size else len(keys) // size - 1
        blocks = keys[: full * size].view(full, size, -1)
        products = [queries[:, None] * bound for bound in (blocks.amin(1), blocks.amax(1))]
        worth = torch.maximum(*products).sum(-1).amax(0)
        worth[0] = worth[-1] = math.inf
        ranked = worth.sort(descending=True)
        last, next_best = ranked.values[count - 2], ranked.values[count - 1]
        self.margin = min(self.margin, float(last - next_best))
        read = torch.zeros(full + 1, dtype=torch.bool)
        read[ranked.indices[: count - 1]] = True
        read[full] = True
        return read.repeat_interleave(size)[: len(keys)]
