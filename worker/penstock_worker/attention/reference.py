"""Paged attention in plain PyTorch: always there, and what faster backends are compared with.

A sequence's KV is one `index_select` by slot. Sequences that compute a single token (decoding)
are padded to the longest and handled together, with the query heads of a KV head folded into the
query length, so that no KV is repeated; the others are handled one by one.
"""

from array import array
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool


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


@dataclass(frozen=True)
class _Decoding:
    """The sequences of a step that compute one token, padded to the longest.

    rows [count] of the flat batch, None when it has no others; slots [count · longest]; masks, by
    window, [count, 1, 1, longest], added to the scores, None where every slot is seen.
    """

    count: int
    rows: Tensor | None
    slots: Tensor
    masks: dict[int, Tensor | None]


@dataclass(frozen=True)
class _Chunk:
    """A sequence that computes several tokens; masks by window, None is plain causal."""

    rows: slice
    slots: Tensor
    masks: dict[int, Tensor | None]


class ReferenceStep:
    """Where each row of a step stores its KV and which slots it reads."""

    def __init__(
        self, pool: KVPool, windows: tuple[int, ...], scores: _Scores, sequences: list[Sequence]
    ) -> None:
        self._keys, self._values = pool.keys, pool.values
        self._windows, self._scores = windows, scores
        single = [sequence for sequence in sequences if sequence.count == 1]
        self._store = torch.empty(sum(s.count for s in sequences), dtype=torch.long)
        self._chunks = [self._chunk(s, pool.block_size) for s in sequences if s.count > 1]
        self._decoding = self._decode_all(single, pool.block_size, pool.dtype) if single else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(0, self._store, key)
        values.index_copy_(0, self._store, value)
        decoding, window, scores = self._decoding, self._windows[layer], self._scores
        if decoding is not None and decoding.rows is None:
            return _attend_single(decoding, window, scores, query, keys, values)
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        if decoding is not None:
            rows = decoding.rows
            out[rows] = _attend_single(decoding, window, scores, query[rows], keys, values)
        for chunk in self._chunks:
            out[chunk.rows] = _attend_chunk(chunk, window, scores, query[chunk.rows], keys, values)
        return out

    def _chunk(self, sequence: Sequence, block_size: int) -> _Chunk:
        rows = slice(sequence.first_row, sequence.first_row + sequence.count)
        total = sequence.computed + sequence.count
        slots = _slots(torch.tensor(sequence.blocks), block_size)[:total]
        self._store[rows] = slots[sequence.computed :]
        masks: dict[int, Tensor | None] = dict.fromkeys(self._windows)
        positions = torch.arange(sequence.computed, total)[:, None]
        for window in masks:
            if sequence.computed or 0 < window < total:
                masks[window] = _seen(positions, total, window)
        return _Chunk(rows, slots, masks)

    def _decode_all(self, single: list[Sequence], block_size: int, dtype: torch.dtype) -> _Decoding:
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
        self._store[rows] = slots.gather(1, last)[:, 0]
        masks: dict[int, Tensor | None] = {}
        for window in set(self._windows):
            seen = _seen(last, longest, window)
            mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
            masks[window] = None if bool(seen.all()) else mask[:, None, None]
        return _Decoding(
            count=len(single),
            rows=rows if self._chunks else None,
            slots=slots.reshape(-1),
            masks=masks,
        )


def _seen(positions: Tensor, total: int, window: int) -> Tensor:
    """Return which slots each position sees. positions [rows, 1]; result [rows, total]."""
    slots = torch.arange(total)[None]
    seen = slots <= positions
    return seen & (slots > positions - window) if window else seen


def _attend_single(
    of: _Decoding, window: int, scores: _Scores, query: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Attend one query token per sequence. query [count, heads, dim]; result [count, heads·dim]."""
    kv_heads, head_dim = keys.shape[1:]
    k = keys.index_select(0, of.slots).view(of.count, -1, kv_heads, head_dim)
    v = values.index_select(0, of.slots).view(of.count, -1, kv_heads, head_dim)
    found = scores.attend(
        query.reshape(of.count, kv_heads, -1, head_dim),
        k.transpose(1, 2),
        v.transpose(1, 2),
        of.masks[window],
        causal=False,
    )
    return found.reshape(of.count, -1)


def _attend_chunk(
    of: _Chunk, window: int, scores: _Scores, query: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Attend one sequence's chunk. query [tokens, heads, dim]; result [tokens, heads·dim]."""
    found = scores.attend(
        query.transpose(0, 1)[None],
        keys.index_select(0, of.slots).transpose(0, 1)[None],
        values.index_select(0, of.slots).transpose(0, 1)[None],
        of.masks[window],
        causal=of.masks[window] is None,
    )
    return found[0].transpose(0, 1).flatten(1)


def _slots(blocks: Tensor, block_size: int) -> Tensor:
    """Return the slots of blocks, in order, flat; any for those that are gone: they are masked."""
    return (blocks.clamp(min=0)[:, None] * block_size + torch.arange(block_size)).view(-1)
