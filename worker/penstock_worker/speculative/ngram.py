"""Guesses that a text goes on as it did before (prompt look-up; Saxena, 2023).

The last few tokens are looked up among all that came before them, prompt and output; what followed
them there is the guess. It costs no model and is often right where an answer quotes its prompt:
summaries, edits of code, structured data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from penstock_worker.request import Request

LONGEST = 4
SHORTEST = 2
"""Tokens that must be equal: longer matches are tried first, a single token says too little."""


@dataclass
class _Index:
    """Where each sequence of tokens was last followed by something."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    indexed: int = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """Note what ends in front of the last token; the end itself has no successor yet."""
        for end in range(self.indexed + 1, len(tokens)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self.ends[tuple(tokens[end - length : end])] = end
        self.indexed = max(self.indexed, len(tokens) - 1)


class NgramProposer:
    """Looks up what followed the same tokens before.

    Args:
        num_tokens: to guess at most.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._indexes: WeakKeyDictionary[Request, _Index] = WeakKeyDictionary()

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `Proposer.propose`."""
        return [self._continued(request) for request in requests]

    def _continued(self, request: Request) -> list[int]:
        tokens = request.tokens
        index = self._indexes.setdefault(request, _Index())
        index.extend(tokens)
        for length in range(min(LONGEST, len(tokens)), SHORTEST - 1, -1):
            end = index.ends.get(tuple(tokens[-length:]))
            if end is not None:
                return tokens[end : end + self._num_tokens]
        return []
