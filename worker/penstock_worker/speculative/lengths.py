"""How many tokens a draft model is to guess for each sequence, and whether at all. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_contract.step_cost import StepCost

BELIEVED = 0.7
"""Share of guesses that are right, before anything is known of a sequence."""
WORTH = 4.0
"""Guesses that this belief counts for."""
FADE = 0.95
"""What a guess of the step before counts for: half after 14 steps. Where nothing is guessed the
belief comes back, so that it is tried again."""


@dataclass
class Acceptance:
    """How often the guesses for one sequence are right, each given that those before it were."""

    right: float = 0.0
    tried: float = 0.0

    def learn(self, right: int, tried: int) -> None:
        """Take in a step: what was guessed behind a wrong token says nothing, and is not tried."""
        self.right = FADE * self.right + right
        self.tried = FADE * self.tried + tried

    @property
    def chance(self) -> float:
        """Of the next guess to be right."""
        return (self.right + WORTH * BELIEVED) / (self.tried + WORTH)


def draft_lengths(
    chances: Sequence[float],
    most: int,
    target: StepCost,
    draft: StepCost,
    context: int,
) -> list[int]:
    """Return for how many tokens ahead each sequence's text is to be guessed.

    The guess number j of sequence i is of use with the chance a_i^j, as those before it must be
    right too (Leviathan et al., 2023, §3.3). It costs the target a token more to check, and the
    draft one more sequence in its j-th step:

        d = target.prefill_token + draft.sequence

    and the draft's j-th step, whoever takes part, costs s = draft.step + draft.kv_token · context.
    A step without guesses brings n tokens, one per sequence, in target.seconds(0, n, context).
    Guesses are added as long as they bring tokens faster than all that is planned before them:

        a_i^j / d          > tokens / seconds    sequence i takes part in the j-th step
        Σ a_i^j / (s + nd) > tokens / seconds    the j-th step is made, with the n that take part

    So a small batch, whose step is bound by reading the weights, guesses far; in a large one a
    token to check costs as much as one to generate, and none is guessed at all.

    Args:
        chances: of the next guess to be right, per sequence.
        most: to guess for any of them.
        target: what its steps cost.
        draft: the same of the draft's.
        context: tokens that all sequences together have computed.
    """
    lengths = [0] * len(chances)
    tokens, seconds = float(len(chances)), target.seconds(0, len(chances), context)
    each = target.prefill_token + draft.sequence
    fixed = draft.step + draft.kv_token * context
    joining = list(range(len(chances)))
    for place in range(1, most + 1):
        gains = {i: chances[i] ** place for i in joining}
        joining = [i for i in joining if gains[i] * seconds > tokens * each]
        gained, spent = sum(gains[i] for i in joining), fixed + each * len(joining)
        if not joining or gained * seconds <= tokens * spent:
            break
        for i in joining:
            lengths[i] = place
        tokens, seconds = tokens + gained, seconds + spent
    return lengths
