"""Guesses that a text goes on as it did before (prompt look-up; Saxena, 2023).

The last few tokens are looked up among all that came before them, prompt and output; what followed
them there is the guess. It costs no model and is often right where an answer quotes its prompt:
summaries, edits of code, structured data.
"""

from array import array
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from penstock_worker.request import Request
from penstock_worker.speculative.proposer import NOTHING, Proposal, Room

LONGEST = 4
SHORTEST = 2
"""Tokens that must be equal: longer matches are preferred, a single token says too little."""


class NgramProposer:
    """Looks up what followed the same tokens before.

    A search reads the whole text, 4 bytes per token: some ten microseconds for most requests.

    Args:
        num_tokens: to guess at most.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._texts: WeakKeyDictionary[Request, array[int]] = WeakKeyDictionary()

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:  # noqa: ARG002
        """See `Proposer.propose`."""
        return [
            Proposal(self._continued(one), []) if one.pending == 1 else NOTHING for one in running
        ]

    def _continued(self, request: Request) -> list[int]:
        text = self._texts.setdefault(request, array("i"))
        text.extend(request.tokens[len(text) :])
        end = last_match(text)
        return [] if end is None else request.tokens[end : end + self._num_tokens]


def last_match(text: "array[int]") -> int | None:
    """Return where the longest match of the text's end ends, the last one of equally long ones."""
    tokens = np.frombuffer(text, dtype=np.int32)
    count = len(tokens)
    ends = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1
    found = None
    for length in range(2, min(LONGEST, count - 1) + 1):
        ends = ends[ends >= length]
        ends = ends[tokens[ends - length] == tokens[count - length]]
        if not len(ends):
            break
        if length >= SHORTEST:
            found = int(ends[-1])
    return found
