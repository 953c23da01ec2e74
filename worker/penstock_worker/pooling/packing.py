"""Inputs of a step side by side: which of them attention takes together. Pure.

Linear layers see a step's tokens flat, one input after another, and need no padding. Attention is
within an input. Inputs of one length go through it as a batch, as they lie; those of nearly one
length are padded to the longest, because many small calls cost more than a little padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LOOSE: Final = 1.25
"""Longest over shortest of inputs that are padded to one length."""
FREE: Final = 8
"""Tokens of padding that are never worth a call of their own."""


@dataclass(frozen=True)
class Group:
    """Inputs that lie side by side and go through attention together."""

    first_row: int
    lengths: tuple[int, ...]
    """In tokens, rising."""

    @property
    def longest(self) -> int:
        """Length to which they are padded."""
        return self.lengths[-1]

    @property
    def even(self) -> bool:
        """Whether no padding is needed."""
        return self.lengths[0] == self.lengths[-1]

    @property
    def rows(self) -> int:
        """Tokens, without padding."""
        return sum(self.lengths)


def groups(lengths: Sequence[int]) -> list[Group]:
    """Return how attention takes inputs of these lengths, which must rise."""
    found: list[Group] = []
    first, row = 0, 0
    for place in range(1, len(lengths) + 1):
        if place < len(lengths) and lengths[place] <= LOOSE * lengths[first] + FREE:
            continue
        group = Group(row, tuple(lengths[first:place]))
        found.append(group)
        first, row = place, row + group.rows
    return found
