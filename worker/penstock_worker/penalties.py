"""Penalties for tokens that were there before.

What a request has had is counted as it grows: to count all of a long prompt anew for every token
would take longer than to compute the token.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from penstock_worker.messages import Sampling


class TokenHistory:
    """The different tokens of a prompt and its output, and how often they came in the output.

    Args:
        prompt_length: tokens of the prompt, which are known but not counted.
    """

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self._length = 0
        self._place: dict[int, int] = {}
        self._tokens = array("q")
        self._counts = array("f")

    def follow(self, tokens: Sequence[int]) -> "TokenHistory":
        """Take in all tokens so far, which are those that are known and perhaps more."""
        for position, token in enumerate(tokens[self._length :], self._length):
            place = self._place.setdefault(token, len(self._tokens))
            if place == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0.0)
            if position >= self._prompt_length:
                self._counts[place] += 1.0
        self._length = len(tokens)
        return self

    def beyond(self, drafts: Sequence[int]) -> "TokenHistory":
        """Return what it would be if these tokens came next."""
        found = TokenHistory(self._prompt_length - self._length)
        found._place = dict(self._place)
        found._tokens, found._counts = self._tokens[:], self._counts[:]
        return found.follow(drafts)

    def apply(self, wanted: Sampling, logits: Tensor) -> None:
        """Change a row of logits, [vocab], as vLLM does: first what repeats, then what is counted.

        The output's first token knows no counts, so they change nothing for it.
        """
        seen = torch.from_numpy(np.array(self._tokens)).to(logits.device)
        values = logits[seen]
        factor = wanted.repetition_penalty
        values = torch.where(values > 0, values / factor, values * factor)
        counts = torch.from_numpy(np.array(self._counts)).to(logits.device)
        taken = wanted.frequency_penalty * counts + wanted.presence_penalty * (counts > 0)
        logits[seen] = values - taken


def penalised(wanted: Sampling) -> bool:
    """Return whether a request asks for penalties."""
    return (
        wanted.repetition_penalty != 1.0
        or wanted.frequency_penalty != 0.0
        or wanted.presence_penalty != 0.0
    )
