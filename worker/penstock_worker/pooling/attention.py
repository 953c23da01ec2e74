"""Attention within each input of a step: nothing is kept, so there is no pool and no block table.

The interface is a decoder's (`penstock_worker.attention.interface`), so the same decoder computes
embeddings; encoders use it with every token seeing every other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.pooling.packing import Group


@dataclass(frozen=True)
class _Padding:
    """Of one group."""

    gather: Tensor
    """[inputs × longest]: a row of the group for each place."""
    keep: Tensor
    """[tokens]: the places that are no padding."""
    lengths: Tensor


class PackedAttention:
    """One step's attention.

    Args:
        parts: the groups of the step's inputs.
        scale: of the scores.
        causal: whether a token sees only itself and those before it.
        windows: tokens that each layer sees; 0, and no windows at all, for every one.
        device: of the states.
    """

    def __init__(
        self,
        parts: Sequence[Group],
        scale: float,
        *,
        causal: bool,
        windows: Sequence[int] = (),
        device: torch.device,
    ) -> None:
        self._parts = [(part, None if part.even else _padding(part, device)) for part in parts]
        self._scale = scale
        self._causal = causal
        self._windows = windows
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._device = device

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return attention's output; shapes as in `StepAttention.attend`."""
        window = self._windows[layer] if self._windows else 0
        heads, width = query.shape[1:]
        found = torch.empty(len(query), heads * width, dtype=query.dtype, device=query.device)
        for part, padding in self._parts:
            rows = slice(part.first_row, part.first_row + part.rows)
            states = (query[rows], key[rows], value[rows])
            if padding is None:
                found[rows] = self._attended(states, part, None, window).flatten(0, 1)
            else:
                padded = tuple(one.index_select(0, padding.gather) for one in states)
                whole = self._attended(padded, part, padding, window).flatten(0, 1)
                found[rows] = whole.index_select(0, padding.keep)
        return found

    def _attended(
        self, states: tuple[Tensor, ...], part: Group, padding: _Padding | None, window: int
    ) -> Tensor:
        """Return [inputs, longest, heads × head_dim]."""
        query, key, value = (
            one.view(len(part.lengths), part.longest, *one.shape[1:]).transpose(1, 2)
            for one in states
        )
        mask = self._mask(part, padding, window)
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=self._causal and mask is None,
            scale=self._scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended.transpose(1, 2).flatten(2)

    def _mask(self, part: Group, padding: _Padding | None, window: int) -> Tensor | None:
        """Return who sees whom; None: all, or, where that is so, all before."""
        # Padding lies behind the tokens: where nobody looks ahead, nobody sees it.
        narrow = bool(window) and window < part.longest
        if not narrow and (padding is None or self._causal):
            return None
        key = (part.first_row, window if narrow else 0)
        if key not in self._masks:
            self._masks[key] = self._seen(part.longest, padding, window if narrow else 0)
        return self._masks[key]

    def _seen(self, longest: int, padding: _Padding | None, window: int) -> Tensor:
        places = torch.arange(longest, device=self._device)
        ahead = places[None, :] - places[:, None]
        seen = torch.ones_like(ahead, dtype=torch.bool)
        if self._causal:
            seen = ahead <= 0
        if window:
            seen = seen & (ahead > -window)
        if padding is None or self._causal:
            return seen
        return (seen & (places < padding.lengths[:, None])[:, None, :])[:, None]


def _padding(part: Group, device: torch.device) -> _Padding:
    lengths = torch.tensor(part.lengths, device=device)
    places = torch.arange(part.longest, device=device)
    starts = lengths.cumsum(0) - lengths
    gather = starts[:, None] + torch.minimum(places, lengths[:, None] - 1)
    keep = (places < lengths[:, None]).flatten().nonzero()[:, 0]
    return _Padding(gather.flatten(), keep, lengths)
