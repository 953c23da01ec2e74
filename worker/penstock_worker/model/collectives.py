"""What a model whose layers are divided among ranks asks of them (Shoeybi et al., "Megatron-LM",
2019, §3): sums where a layer's parts meet, and the parts of what lies over the vocabulary.

Every rank calls the same in the same order; only the first one needs what comes of the vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor


class Collectives(Protocol):
    """How the ranks that share a model meet."""

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of every rank's x, the same bits everywhere; x itself may hold it."""

    def embedded(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Return the tokens' rows of the whole table, of which `table` is this rank's part."""

    def joined(self, logits: Tensor) -> Tensor:
        """Return the whole rows of which `logits` [rows, part] is this rank's part.

        What ranks other than the first get is of no use.
        """

    def likeliest(self, logits: Tensor) -> list[int]:
        """Return each whole row's likeliest token, the first among equals; see `joined`."""


class Alone:
    """A model on one rank: it has everything itself."""

    def sum(self, x: Tensor) -> Tensor:
        """See `Collectives.sum`."""
        return x

    def embedded(self, table: Tensor, tokens: Tensor) -> Tensor:
        """See `Collectives.embedded`."""
        return table.index_select(0, tokens)

    def joined(self, logits: Tensor) -> Tensor:
        """See `Collectives.joined`."""
        return logits

    def likeliest(self, logits: Tensor) -> list[int]:
        """See `Collectives.likeliest`."""
        found: list[int] = torch.argmax(logits, -1).tolist()
        return found


ALONE = Alone()
