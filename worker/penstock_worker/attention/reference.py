"""Paged attention in plain PyTorch: always there, and what faster backends are compared with.

The pool is slot-major, [slots, kv_heads, head_dim] per layer, slot = block · block_size + offset,
so a sequence's KV is one `index_select` by slot. Sequences that compute a single token (decoding)
are padded to the longest and handled together, with the query heads of a KV head folded into the
query length, so that no KV is repeated; the others are handled one by one.
"""

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import Sequence


class ReferenceAttention:
    """The KV pool of all layers.

    Args:
        num_layers, num_kv_heads, head_dim: shape of the model's KV.
        num_blocks, block_size: shape of the pool.
        dtype: of the stored KV.
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
    ) -> None:
        shape = (num_blocks * block_size, num_kv_heads, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in range(num_layers)]
        self._block_size = block_size

    def begin(self, sequences: list[Sequence]) -> "ReferenceStep":
        """Return the attention of a step over these sequences."""
        return ReferenceStep(self.keys, self.values, sequences, self._block_size)


class ReferenceStep:
    """Where each row of a step stores its KV and which slots it reads."""

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        sequences: list[Sequence],
        block_size: int,
    ) -> None:
        self._keys = keys
        self._values = values
        slots = [_slots(sequence, block_size) for sequence in sequences]
        self._store = torch.cat(
            [s[q.computed : q.computed + q.count] for q, s in zip(sequences, slots, strict=True)]
        )
        single = [(q, s) for q, s in zip(sequences, slots, strict=True) if q.count == 1]
        self._chunks = [
            (slice(q.first_row, q.first_row + q.count), s[: q.computed + q.count], _mask(q))
            for q, s in zip(sequences, slots, strict=True)
            if q.count > 1
        ]
        self._rows = torch.tensor([q.first_row for q, _ in single], dtype=torch.long)
        if single:
            lengths = [q.computed + 1 for q, _ in single]
            self._shape = (len(single), max(lengths))
            padded = torch.zeros(self._shape, dtype=torch.long)
            for row, (length, (_, found)) in enumerate(zip(lengths, single, strict=True)):
                padded[row, :length] = found[:length]
            self._gather = padded.view(-1)
            seen = torch.arange(self._shape[1])[None] < torch.tensor(lengths)[:, None]
            self._seen = seen[:, None, None, :]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`."""
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(0, self._store, key)
        values.index_copy_(0, self._store, value)
        out = torch.empty_like(query)
        if len(self._rows):
            self._decode(keys, values, query, out)
        for rows, slots, mask in self._chunks:
            q = query[rows].transpose(0, 1)[None]
            k = keys.index_select(0, slots).transpose(0, 1)[None]
            v = values.index_select(0, slots).transpose(0, 1)[None]
            found = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )
            out[rows] = found[0].transpose(0, 1)
        return out.flatten(1)

    def _decode(self, keys: Tensor, values: Tensor, query: Tensor, out: Tensor) -> None:
        count, longest = self._shape
        kv_heads, head_dim = keys.shape[1:]
        k = keys.index_select(0, self._gather).view(count, longest, kv_heads, head_dim)
        v = values.index_select(0, self._gather).view(count, longest, kv_heads, head_dim)
        q = query[self._rows].view(count, kv_heads, -1, head_dim)
        found = functional.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=self._seen
        )
        out[self._rows] = found.reshape(count, -1, head_dim)


def _slots(sequence: Sequence, block_size: int) -> Tensor:
    """Return the slots of a sequence's tokens in order, to the end of its block table."""
    starts = torch.tensor(sequence.blocks, dtype=torch.long) * block_size
    return (starts[:, None] + torch.arange(block_size)).view(-1)


def _mask(sequence: Sequence) -> Tensor | None:
    """Return which tokens each row sees, [count, computed + count]; None is plain causal."""
    if not sequence.computed:
        return None
    total = sequence.computed + sequence.count
    positions = torch.arange(sequence.computed, total)
    return torch.arange(total)[None] <= positions[:, None]
