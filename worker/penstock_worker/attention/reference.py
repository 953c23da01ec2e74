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
    """Attention over a pool."""

    def __init__(self, pool: KVPool) -> None:
        self._pool = pool

    def begin(self, sequences: list[Sequence]) -> "ReferenceStep":
        """Return the attention of a step over these sequences."""
        return ReferenceStep(self._pool, sequences)


@dataclass(frozen=True)
class _Decoding:
    """The sequences of a step that compute one token, padded to the longest.

    rows [count] of the flat batch, None when it has no others; slots [count · longest]; mask
    [count, 1, 1, longest], added to the scores, None when all are equally long.
    """

    count: int
    rows: Tensor | None
    slots: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class _Chunk:
    """A sequence that computes several tokens; mask None is plain causal."""

    rows: slice
    slots: Tensor
    mask: Tensor | None


class ReferenceStep:
    """Where each row of a step stores its KV and which slots it reads."""

    def __init__(self, pool: KVPool, sequences: list[Sequence]) -> None:
        self._keys, self._values = pool.keys, pool.values
        single = [sequence for sequence in sequences if sequence.count == 1]
        self._store = torch.empty(sum(s.count for s in sequences), dtype=torch.long)
        self._chunks = [self._chunk(s, pool.block_size) for s in sequences if s.count > 1]
        self._decoding = self._decode_all(single, pool.block_size, pool.dtype) if single else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(0, self._store, key)
        values.index_copy_(0, self._store, value)
        decoding = self._decoding
        if decoding is not None and decoding.rows is None:
            return _attend_single(decoding, query, keys, values)
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        if decoding is not None:
            out[decoding.rows] = _attend_single(decoding, query[decoding.rows], keys, values)
        for chunk in self._chunks:
            out[chunk.rows] = _attend_chunk(chunk, query[chunk.rows], keys, values)
        return out

    def _chunk(self, sequence: Sequence, block_size: int) -> _Chunk:
        rows = slice(sequence.first_row, sequence.first_row + sequence.count)
        total = sequence.computed + sequence.count
        slots = _slots(torch.tensor(sequence.blocks), block_size)[:total]
        self._store[rows] = slots[sequence.computed :]
        mask = None
        if sequence.computed:
            positions = torch.arange(sequence.computed, total)
            mask = torch.arange(total)[None] <= positions[:, None]
        return _Chunk(rows, slots, mask)

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
        seen = torch.arange(longest)[None] <= last
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return _Decoding(
            count=len(single),
            rows=rows if self._chunks else None,
            slots=slots.reshape(-1),
            mask=None if bool(seen.all()) else mask[:, None, None],
        )


def _attend_single(of: _Decoding, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend one query token per sequence. query [count, heads, dim]; result [count, heads·dim]."""
    kv_heads, head_dim = keys.shape[1:]
    k = keys.index_select(0, of.slots).view(of.count, -1, kv_heads, head_dim)
    v = values.index_select(0, of.slots).view(of.count, -1, kv_heads, head_dim)
    found = functional.scaled_dot_product_attention(
        query.reshape(of.count, kv_heads, -1, head_dim),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=of.mask,
    )
    return found.reshape(of.count, -1)


def _attend_chunk(of: _Chunk, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend one sequence's chunk. query [tokens, heads, dim]; result [tokens, heads·dim]."""
    found = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys.index_select(0, of.slots).transpose(0, 1)[None],
        values.index_select(0, of.slots).transpose(0, 1)[None],
        attn_mask=of.mask,
        is_causal=of.mask is None,
        enable_gqa=True,
    )
    return found[0].transpose(0, 1).flatten(1)


def _slots(blocks: Tensor, block_size: int) -> Tensor:
    """Return the slots of blocks, in order, flat."""
    return (blocks[:, None] * block_size + torch.arange(block_size)).view(-1)
