"""A step's inputs, packed: tokens flat, one input after another, shorter ones first."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.pooling.packing import Group, groups


@dataclass(frozen=True)
class Input:
    """One text, or a pair of them."""

    tokens: Sequence[int]
    second: int = 0
    """Where a pair's second text begins; 0 for a single text."""


@dataclass(frozen=True)
class Rows:
    """A row per token."""

    tokens: Tensor
    """[tokens], as the other two."""
    positions: Tensor
    """From 0, in each input."""
    types: Tensor
    """1 in a pair's second text, else 0."""
    lengths: Tensor
    """[inputs], rising."""
    parts: list[Group]
    """How attention takes them."""


def packed(inputs: Sequence[Input], device: torch.device) -> Rows:
    """Return the rows of inputs, which must come shortest first."""
    lengths = torch.tensor([len(one.tokens) for one in inputs])
    tokens = torch.tensor([token for one in inputs for token in one.tokens])
    starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    positions = torch.arange(len(tokens)) - starts
    seconds = torch.tensor([one.second or len(one.tokens) for one in inputs])
    types = (positions >= torch.repeat_interleave(seconds, lengths)).long()
    return Rows(
        tokens.to(device),
        positions.to(device),
        types.to(device),
        lengths.to(device),
        groups(lengths.tolist()),
    )
