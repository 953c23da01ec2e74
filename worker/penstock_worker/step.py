"""One step's work, as the scheduler plans it and a runner computes it. Plain data."""

import sys
from dataclasses import dataclass, field

from penstock_worker.request import Request

SCORED_TOKENS = 256
"""Prompt tokens that are scored in a step: each needs a row of logits as wide as the vocabulary."""


@dataclass(frozen=True)
class Slice:
    """Tokens `start` to `start + count` of a request, computed in this step, and drafts behind."""

    request: Request
    start: int
    count: int
    drafts: tuple[int, ...] = ()
    """Guessed tokens; only where the slice reaches the last known one."""

    @property
    def samples(self) -> bool:
        """Whether the slice reaches the last known token, so that a new one is drawn."""
        return self.start + self.count == len(self.request.tokens)

    @property
    def scored(self) -> range:
        """Positions of the prompt tokens whose log-probabilities this slice finds."""
        if not self.request.unscored:
            return range(0)
        last = min(self.start + self.count, self.request.prompt_length - 1)
        return range(max(self.start, len(self.request.scores)) + 1, last + 1)


@dataclass
class Step:
    """One step's work, who runs for the first time, and who had to give way."""

    slices: list[Slice] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Blocks to copy (from, to), in order, before anything is computed."""
    scoring: int = SCORED_TOKENS
    """Prompt tokens that may still be scored."""
    prompts: int = sys.maxsize
    """Prompt tokens that may still be computed beside requests that decode."""
    cut: bool = False
    """Whether it would have computed more of them without that bound."""
