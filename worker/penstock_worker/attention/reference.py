"""Paged attention in plain PyTorch: always there, and what faster backends are compared with.

A sequence's KV is one `index_select` by slot. Sequences that compute a single token (decoding) are
handled together, with the query heads of a KV head folded into the query length, so that no KV is
repeated; the others are handled one by one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.attention.slots import Chunk, Decoding, StepSlots


class ReferenceAttention:
    """Attention over a pool.

    Args:
        pool: keeps the KV.
        windows: tokens that each layer sees; 0 for all.
        scale: of the scores.
        cap: that bends scores; 0 for none.
    """

    def __init__(
        self, pool: KVPool, windows: tuple[int, ...], scale: float, cap: float = 0.0
    ) -> None:
        self._pool = pool
        self._windows = windows
        self._scores = _Scores(scale, cap)

    def begin(self, sequences: list[Sequence]) -> "ReferenceStep":
        """Return the attention of a step over these sequences."""
        return ReferenceStep(self._pool, self._windows, self._scores, sequences)


@dataclass(frozen=True)
class _Scores:
    """How scores are made: multiplied by scale, then bent into ±cap unless that is 0."""

    scale: float
    cap: float

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool
    ) -> Tensor:
        """Attend; query [n, heads, rows, dim], key and value [n, kv_heads, slots, dim].

        The mask is boolean or added to the scores; causal stands for one, where rows are slots.
        """
        if not self.cap:
            return functional.scaled_dot_product_attention(
                query, key, value, mask, is_causal=causal, enable_gqa=True, scale=self.scale
            )
        group = query.shape[1] // key.shape[1]
        key, value = (kept.repeat_interleave(group, 1) for kept in (key, value))
        scores = query @ key.transpose(2, 3) * self.scale
        scores = self.cap * (scores / self.cap).tanh()
        if causal:
            mask = torch.ones(scores.shape[2:], dtype=torch.bool).tril_()
        if mask is not None and mask.dtype is torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ value


class ReferenceStep:
    """One step's attention."""

    def __init__(
        self, pool: KVPool, windows: tuple[int, ...], scores: _Scores, sequences: list[Sequence]
    ) -> None:
        self._pool = pool
        self._windows, self._scores = windows, scores
        self._slots = StepSlots(sequences, pool.block_size, set(windows))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        self._pool.put(layer, self._slots.store, key, value)
        decoding = self._slots.decoding
        if decoding is not None and decoding.rows is None:
            return self._attend_single(decoding, layer, query)
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        if decoding is not None:
            out[decoding.rows] = self._attend_single(decoding, layer, query[decoding.rows])
        for chunk in self._slots.chunks:
            out[chunk.rows] = self._attend_chunk(chunk, layer, query[chunk.rows])
        return out

    def _attend_single(self, of: Decoding, layer: int, query: Tensor) -> Tensor:
        """Attend one query token per sequence; [count, heads, dim] to [count, heads·dim]."""
        keys, values = self._pool.take(layer, of.slots, query.dtype)
        kv_heads, head_dim = keys.shape[1:]
        mask = of.masks[self._windows[layer]]
        found = self._scores.attend(
            query.reshape(of.count, kv_heads, -1, head_dim),
            keys.view(of.count, -1, kv_heads, head_dim).transpose(1, 2),
            values.view(of.count, -1, kv_heads, head_dim).transpose(1, 2),
            None if mask is None else mask.to(query.dtype),
            causal=False,
        )
        return found.reshape(of.count, -1)

    def _attend_chunk(self, of: Chunk, layer: int, query: Tensor) -> Tensor:
        """Attend one sequence's chunk. query [tokens, heads, dim]; result [tokens, heads·dim]."""
        keys, values = self._pool.take(layer, of.slots, query.dtype)
        mask = of.masks[self._windows[layer]]
        found = self._scores.attend(
            query.transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            mask,
            causal=mask is None,
        )
        return found[0].transpose(0, 1).flatten(1)
