"""What steps of the target and of its draft cost, measured at start and learned from all since.

A machine that others use, or guesses that are checked in small batches, cost other than what was
measured at start, and whether guessing pays is decided by the difference. Pure.
"""

from dataclasses import dataclass

from penstock_contract.step_cost import StepCost, StepMoments, fit

REFIT_EVERY = 16
"""Steps after which a cost is fitted again, and what was learned before counts for half."""
WORTH = 0.1
"""Steps that what was measured at start counts for."""


class LearnedCost:
    """The cost of one model's steps.

    Args:
        start: as it was measured.
    """

    def __init__(self, start: StepCost) -> None:
        self.cost = start
        self._start = start
        self._moments = StepMoments()
        self._steps = 0

    def learn(self, seconds: float, tokens: int, sequences: int, context: int) -> None:
        """Take in a step that computed so many tokens beside one for each sequence."""
        self._moments.add(seconds, tokens, sequences, context)
        self._steps += 1
        if self._steps % REFIT_EVERY == 0:
            sums = self._moments.sums
            self.cost = fit(sums, self._start, WORTH)
            self._moments = StepMoments({name: total / 2 for name, total in sums.items()})


@dataclass(frozen=True)
class Costs:
    """Of a step of the target, and of one of the draft."""

    target: LearnedCost
    draft: LearnedCost
