"""A worker that batches continuously, as vLLM does, and tells nothing of what its steps cost."""

import random
from collections import deque
from collections.abc import Callable

from penstock_contract.first_token import FEWEST_PROMPTS
from penstock_contract.step_cost import StepCost

CHUNK = 1024
"""Tokens of a step."""


class Waiting:
    """A prompt that the worker has."""

    def __init__(self, tokens: int, sent: float, ahead: int, decoding: int) -> None:
        self.tokens = self.left = tokens
        self.sent = sent
        self.ahead = ahead
        """Tokens of prompts that it had already."""
        self.decoding = decoding


class BatchingWorker:
    """Steps that take what a cost says, give or take a little.

    Args:
        cost: of its steps.
        told: is told, for each first token, of the prompt tokens until it, of the sequences that
            decoded when it was sent, and of the seconds.
        answer: tokens that each request generates.
        seed: of the little.
    """

    def __init__(
        self,
        cost: StepCost,
        told: Callable[[float, float, float], None],
        answer: int = 100,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.computed = 0
        """Prompt tokens."""
        self._cost = cost
        self._told = told
        self._answer = answer
        self._random = random.Random(seed)
        self._prompts: deque[Waiting] = deque()
        self._sequences: list[list[int]] = []
        """Context and what is left to generate, of each."""

    @property
    def outstanding(self) -> int:
        """Tokens of prompts without a first token."""
        return sum(one.tokens for one in self._prompts)

    def give(self, tokens: int) -> None:
        """Send a prompt."""
        decoding = len(self._sequences)
        self._prompts.append(Waiting(tokens, self.now, self.outstanding, decoding))

    def wants_prompt(self, backlog: float, token: float) -> bool:
        """Return whether the gateway gives it another prompt that takes a token for so long."""
        few = len(self._prompts) < FEWEST_PROMPTS
        return few or self.outstanding * token <= backlog

    def step(self) -> None:
        """Compute one step."""
        room, begun = CHUNK - len(self._sequences), self.computed
        for one in self._prompts:
            took = min(max(0, room), one.left)
            one.left, room, self.computed = one.left - took, room - took, self.computed + took
        context = sum(sequence[0] for sequence in self._sequences)
        seconds = self._cost.seconds(self.computed - begun, len(self._sequences), context)
        self.now += seconds * self._random.uniform(0.9, 1.2)
        self._sequences = [[held + 1, left - 1] for held, left in self._sequences if left > 1]
        while self._prompts and not self._prompts[0].left:
            one = self._prompts.popleft()
            self._told(one.ahead + one.tokens, one.decoding, self.now - one.sent)
            self._sequences.append([one.tokens, self._answer])
