"""Latent attention in plain PyTorch (DeepSeek-AI, "DeepSeek-V2", 2024, §2.1 and appendix C).

What is stored of a token serves all heads. Sequences that compute a single token multiply their
queries with what would expand latents to keys, and attend over the latents themselves (the absorbed
form). For several tokens it is faster to expand the latents first: at a context of a thousand
tokens by a factor of two.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.attention.slots import Chunk, Decoding, StepSlots


@dataclass(frozen=True)
class Expansion:
    """What makes a layer's keys and values from latents.

    keys [heads, plain_dim, rank]: the part of a head's key that knows no position; values [heads,
    value_dim, rank].
    """

    keys: Tensor
    values: Tensor


class LatentAttention:
    """Attention over a pool of latents.

    Args:
        pool: keeps latents and rotary keys.
        expansions: of each layer.
        scale: of the scores.
    """

    def __init__(self, pool: KVPool, expansions: Rows[Expansion], scale: float) -> None:
        self._pool = pool
        self._expansions = expansions
        self._scale = scale

    def begin(self, sequences: list[Sequence]) -> "LatentStep":
        """Return the attention of a step over these sequences."""
        return LatentStep(self._pool, self._expansions, self._scale, sequences)


class LatentStep:
    """One step's attention."""

    def __init__(
        self,
        pool: KVPool,
        expansions: Rows[Expansion],
        scale: float,
        sequences: list[Sequence],
    ) -> None:
        self._stored = pool.keys
        self._expansions = expansions
        self._scale = scale
        self._slots = StepSlots(sequences, pool.block_size, windows={0})

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store, then attend; see `StepAttention.attend`.

        Shapes: query [tokens, heads, plain_dim + rotary_dim]; key, rotary, [tokens, 1, rotary_dim];
        value, latents, [tokens, 1, rank]; result [tokens, heads × value_dim].
        """
        stored, by = self._stored[layer], self._expansions[layer]
        latents = torch.cat([value, key], -1)
        stored.index_copy_(0, self._slots.store, latents.to(stored.dtype))
        out = query.new_empty(len(query), by.values.shape[0] * by.values.shape[1])
        decoding = self._slots.decoding
        if decoding is not None:
            rows = slice(None) if decoding.rows is None else decoding.rows
            out[rows] = self._attend_single(decoding, query[rows], stored, by)
        for chunk in self._slots.chunks:
            out[chunk.rows] = self._attend_chunk(chunk, query[chunk.rows], stored, by)
        return out

    def _attend_single(self, of: Decoding, query: Tensor, stored: Tensor, by: Expansion) -> Tensor:
        """Attend one query token per sequence, over latents: all heads share them."""
        plain, rank = by.keys.shape[1:]
        absorbed = torch.einsum("nhd,hdr->nhr", query[..., :plain], by.keys)
        kept = stored.index_select(0, of.slots).to(query.dtype)
        kept = kept.view(of.count, 1, -1, stored.shape[-1])
        mask = of.masks[0]
        found = functional.scaled_dot_product_attention(
            torch.cat([absorbed, query[..., plain:]], -1)[:, None],
            kept,
            kept[..., :rank],
            None if mask is None else mask.to(query.dtype),
            scale=self._scale,
        )
        return torch.einsum("nhr,hvr->nhv", found[:, 0], by.values).flatten(1)

    def _attend_chunk(self, of: Chunk, query: Tensor, stored: Tensor, by: Expansion) -> Tensor:
        """Attend one sequence's chunk, over keys and values as wide as each other."""
        heads, _, rank = by.keys.shape
        kept = stored.index_select(0, of.slots)[:, 0].to(query.dtype)
        latents, rotary = torch.split(kept, [rank, kept.shape[-1] - rank], -1)
        keys = torch.cat(
            [torch.einsum("sr,hdr->hsd", latents, by.keys), rotary.expand(heads, -1, -1)], -1
        )
        values = torch.einsum("sr,hvr->hsv", latents, by.values)
        # PyTorch's fast path wants one width for both.
        missing = max(0, keys.shape[-1] - values.shape[-1])
        found = functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys[None],
            functional.pad(values, (0, missing))[None],
            of.masks[0],
            is_causal=of.masks[0] is None,
            scale=self._scale,
        )[0]
        return found[..., : values.shape[-1]].transpose(0, 1).flatten(1)
