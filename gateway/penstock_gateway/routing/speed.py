"""How fast a worker computes prompts, learned from the answers that it gives.

    seconds to the first token = start + token · (uncached tokens in front of it and its own)

fitted by least squares over what was seen, the older the less it counts, and a prior: the worker's
own measurement at its start where it tells one. Robust: what is far off the usual error counts as
if it were just that far off (Huber's weights), so that a pause now and then changes nothing and a
worker that has really become slower is still believed after a while.
"""

from dataclasses import dataclass, field
from typing import Final

from penstock_contract.step_cost import StepCost

MEMORY: Final = 0.97
"""Share of its weight that an observation keeps when another one comes."""
PRIOR: Final = 4.0
"""Observations that the prior is worth."""
UNIT: Final = 1000.0
"""Tokens: a usual prompt. Solving is better conditioned in units of it."""
FAR: Final = 3.0
"""Usual errors beyond which an observation counts less."""
TYPICAL_OUTPUT: Final = 256
"""Tokens that a request generates, when nothing is known of it."""


@dataclass(frozen=True)
class Speed:
    """What a worker needs; seconds."""

    start: float = 0.02
    """For the first token of a prompt without length, on an idle worker."""
    token: float = 1e-4
    """For each prompt token that is not cached: 1 / V_p."""
    sequence: float = 1e-4
    """By which each resident sequence makes a step longer."""
    crowding: float = field(init=False)
    """Seconds that one more request costs each resident one, over its usual life: β."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crowding", self.sequence * TYPICAL_OUTPUT)

    @classmethod
    def of(cls, cost: StepCost) -> "Speed":
        """Return the speed that a worker measured itself; where it could not, the default's."""
        usual = cls()
        return cls(
            cost.step or usual.start,
            cost.prefill_token or usual.token,
            cost.sequence or usual.sequence,
        )


class SpeedLearner:
    """Keeps the estimate of one worker's speed."""

    def __init__(self, prior: Speed | None = None) -> None:
        self.speed = prior or Speed()
        self._prior = self.speed
        self._error = 0.0
        """Usual error, seconds."""
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def believe(self, prior: Speed) -> None:
        """Take over what the worker says of itself."""
        self._prior = prior
        self._solve()

    def observe(self, tokens: float, seconds: float) -> None:
        """Learn from a first token: it came after so many seconds, behind so many tokens."""
        expected = self.speed.start + self.speed.token * tokens
        off = seconds - expected
        usual = self._error or abs(off)
        bound = FAR * usual
        believed = expected + min(bound, max(-bound, off))
        self._error = MEMORY * usual + (1 - MEMORY) * min(abs(off), 2 * bound)
        x = tokens / UNIT
        self._count = MEMORY * self._count + 1
        self._x = MEMORY * self._x + x
        self._y = MEMORY * self._y + believed
        self._xx = MEMORY * self._xx + x * x
        self._xy = MEMORY * self._xy + x * believed
        self._solve()

    def _solve(self) -> None:
        """Minimise the squared errors plus the prior's, over coefficients that are not negative."""
        start, token = self._prior.start, self._prior.token * UNIT
        count, xx = self._count + PRIOR, self._xx + PRIOR
        y, xy = self._y + PRIOR * start, self._xy + PRIOR * token
        determinant = count * xx - self._x * self._x
        fitted_start = (y * xx - self._x * xy) / determinant
        fitted_token = (count * xy - self._x * y) / determinant
        if fitted_start < 0:
            fitted_start, fitted_token = 0.0, xy / xx
        elif fitted_token < 0:
            fitted_start, fitted_token = y / count, 0.0
        slowest, fastest = 100 * self._prior.token, 0.01 * self._prior.token
        bounded = min(slowest, max(fastest, fitted_token / UNIT))
        self.speed = Speed(fitted_start, bounded, self._prior.sequence)
