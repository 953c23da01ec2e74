"""How many prompt tokens a step may compute beside requests that decode (stall-free batching).

Prompts get what decoding leaves of the TPOT objective, and never less than a tenth of it, so that
neither stalls the other (Sarathi-Serve, Agrawal et al., OSDI 2024). What steps cost was measured at
start, and is learned from those that are bounded: their mean is what an objective per token bounds.
Pure.
"""

import sys
from collections.abc import Iterable
from dataclasses import astuple
from math import inf

from penstock_contract.step_cost import StepCost, StepMoments, Totals, fit, scaled
from penstock_worker.request import Request

UNBOUNDED = sys.maxsize

REFIT_EVERY = 64
"""Steps after which the cost is fitted again, and what was learned before counts for half."""

WORTH = 8.0
"""Steps that the previous cost counts for in a fit."""


class PrefillBudget:
    """Bounds the prompt tokens of steps.

    Args:
        cost: of a step, as measured at start; None: nothing is bounded.
    """

    def __init__(self, cost: StepCost | None = None) -> None:
        self.cost = cost
        self._bounds = False
        self._moments = StepMoments()
        self._totals = Totals()
        self._steps = 0

    def room(self, running: Iterable[Request]) -> int:
        """Return the prompt tokens of the next step, by the strictest objective that decodes."""
        if self.cost is None:
            return UNBOUNDED
        objective, sequences, context = inf, 0, 0
        for request in running:
            context += request.computed
            if request.decodes:
                sequences += 1
                objective = min(objective, request.tpot)
        self._bounds = objective < inf
        if not self._bounds:
            return UNBOUNDED
        tokens = self.cost.prefill_within(objective, sequences, context)
        return max(1, int(min(tokens, UNBOUNDED)))

    def learn(self, seconds: float, prefill: int, sequences: int, context: int) -> None:
        """Take in what the step took; where nobody asks for a pace, nothing is learned."""
        if self.cost is None or not self._bounds:
            return
        self._moments.add(seconds, prefill, sequences, context)
        then = self._totals
        self._totals = Totals(
            then.steps + 1,
            then.seconds + seconds,
            then.prefill + prefill,
            then.sequences + sequences,
            then.kv + context,
        )
        self._steps += 1
        if self._steps % REFIT_EVERY == 0:
            sums = self._moments.sums
            self.cost = scaled(fit(sums, self.cost, WORTH), self._totals)
            self._moments = StepMoments({name: total / 2 for name, total in sums.items()})
            self._totals = Totals(*(total / 2 for total in astuple(self._totals)))
