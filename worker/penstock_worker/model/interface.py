"""The contract between the runner and whatever computes a decoder's forward pass."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from penstock_worker.attention.interface import Sequence


@dataclass(frozen=True)
class Batch:
    """A step's tokens, flat, one sequence after another."""

    tokens: list[int]
    positions: list[int]
    """Of each token in its sequence."""
    sequences: list[Sequence]
    """Together they own all rows, in order."""
    output_rows: list[int]
    """Rows whose next token is wanted, ascending."""
    adapters: list[str] = field(default_factory=list)
    """Of each sequence: empty for the base model. No adapters at all: the list may be empty."""


class Model(Protocol):
    """Stores the KV of a batch's tokens and predicts what follows."""

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 logits [output rows, vocab], which the caller may change."""

    def greedy(self, batch: Batch) -> list[int]:
        """Return the likeliest token of every output row; the first among equals."""
