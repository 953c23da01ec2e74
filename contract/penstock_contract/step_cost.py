"""What an engine step costs, T = a + b_p·prefill + b_d·sequences + c·kv, and how to learn it.

A worker exports sums over its steps (`STEP_MOMENTS`): of the four regressors' products with each
other and with the step's seconds, each divided by the step's seconds squared. They are counters, so
their increase over *any* window, of one worker or added up over many, is exactly the normal
equations of a least-squares fit over the steps of that window; nobody needs to see single steps.

Divided so, the errors that the fit makes small are relative ones: a step of 2 ms counts as much as
one of 200 ms, and one that a busy machine held up counts for little. Steps that took less than they
should then count for more than those that took longer, so the fit alone is too fast by about twice
the squared scatter; `Totals` say what all steps took together, and `scaled` makes that come out
right. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from math import inf
from typing import Final

REGRESSORS: Final = ("steps", "prefill", "sequences", "kv")
"""1, prompt tokens computed, sequences that decode, tokens of context that attention reads."""

STEP_MOMENTS: Final = (
    *(f"{one}*{other}" for one, other in combinations_with_replacement(REGRESSORS, 2)),
    *(f"{one}*seconds" for one in REGRESSORS),
)
"""Names of the sums: products of two regressors, and of a regressor with the seconds."""

SCALE: Final = (1.0, 100.0, 10.0, 1000.0)
"""Usual sizes of the regressors: solving is better conditioned in units of these."""

RIDGE: Final = 1e-9
"""Weight of zeros where nothing better is believed, so that there is always one answer."""

LEAST_PREFILL: Final = 0.1
"""Share of a bounded step's time that prompts get at least: they always advance."""

SHORTEST: Final = 1e-6
"""Seconds below which a step's duration is no measurement."""


@dataclass(frozen=True)
class StepCost:
    """Seconds per step, prompt token, decoding sequence and token of context."""

    step: float
    prefill_token: float
    sequence: float
    kv_token: float

    def seconds(self, prefill: float, sequences: float, kv: float) -> float:
        """Return the duration of a step."""
        return (
            self.step
            + self.prefill_token * prefill
            + self.sequence * sequences
            + self.kv_token * kv
        )

    def prefill_within(self, seconds: float, sequences: float, kv: float) -> float:
        """Return the prompt tokens that a step beside decoding has time for; inf if free.

        Sarathi-Serve's stall-free batching (Agrawal et al., OSDI 2024): the token budget follows
        from the objective between two tokens. Prompts get what decoding leaves of it, and never
        less than `LEAST_PREFILL`. Where decoding alone takes longer the objective is lost, and
        they get as much time as decoding, so that the queue of prompts does not grow for nothing.

        Args:
            seconds: that the step may take.
            sequences: that decode in it.
            kv: tokens of context that it reads.
        """
        decoding = self.seconds(0, sequences, kv)
        left = max(seconds - decoding, LEAST_PREFILL * seconds)
        time = left if decoding < seconds else decoding
        return time / self.prefill_token if self.prefill_token > 0 else inf

    def sequences_within(self, seconds: float, context: float) -> float:
        """Return the sequences that a step without prompts has time for; inf if they are free.

        Args:
            seconds: that the step may take.
            context: tokens that each of them reads.
        """
        each = self.sequence + self.kv_token * context
        return max(0.0, seconds - self.step) / each if each > 0 else inf


@dataclass
class StepMoments:
    """Sums over steps, by the names in `STEP_MOMENTS`."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEP_MOMENTS, 0.0))

    def add(self, seconds: float, prefill: float, sequences: float, kv: float) -> None:
        """Take a step in."""
        for name, value in moments(seconds, prefill, sequences, kv):
            self.sums[name] += value


def moments(
    seconds: float, prefill: float, sequences: float, kv: float
) -> Iterable[tuple[str, float]]:
    """Return what one step adds to each sum."""
    took = max(SHORTEST, seconds)
    values = (1.0 / took, prefill / took, sequences / took, kv / took)
    products = [one * other for one, other in combinations_with_replacement(values, 2)]
    return zip(STEP_MOMENTS, [*products, *values], strict=True)


def fit(sums: Mapping[str, float], prior: StepCost | None = None, worth: float = 1.0) -> StepCost:
    """Return the non-negative coefficients that explain the steps best.

    Args:
        sums: increases of the sums over a window, or `StepMoments.sums`.
        prior: what to believe as far as the steps do not tell (zeros by default). A worker that
            never saw a prompt cannot tell what prompts cost.
        worth: steps of usual size that the prior counts for.

    Least squares of relative errors with the coefficients held at or above zero: of the 16 sets of
    coefficients that could be zero, the best feasible one (non-negative least squares by
    enumeration).
    """
    count = len(REGRESSORS)
    before = prior or StepCost(0.0, 0.0, 0.0, 0.0)
    believed = [before.step, before.prefill_token, before.sequence, before.kv_token]
    usual = before.seconds(*SCALE[1:])
    weight = worth / usual**2 if usual > 0 else RIDGE * (1.0 + sums["steps*steps"])
    gram = [[0.0] * count for _ in range(count)]
    right = [0.0] * count
    for i, one in enumerate(REGRESSORS):
        right[i] = sums[f"{one}*seconds"] / SCALE[i] + weight * believed[i] * SCALE[i]
        for j in range(i, count):
            gram[i][j] = gram[j][i] = sums[f"{one}*{REGRESSORS[j]}"] / (SCALE[i] * SCALE[j])
        gram[i][i] += weight
    best = _non_negative(gram, right)
    return StepCost(*(value / scale for value, scale in zip(best, SCALE, strict=True)))


@dataclass(frozen=True)
class Totals:
    """What steps came to together; may be faded, so no whole numbers."""

    steps: float = 0.0
    seconds: float = 0.0
    prefill: float = 0.0
    sequences: float = 0.0
    kv: float = 0.0


def scaled(cost: StepCost, totals: Totals) -> StepCost:
    """Return the cost in its proportions, by which the steps take what they took together."""
    expected = (
        cost.step * totals.steps
        + cost.prefill_token * totals.prefill
        + cost.sequence * totals.sequences
        + cost.kv_token * totals.kv
    )
    if expected <= 0 or totals.seconds <= 0:
        return cost
    factor = totals.seconds / expected
    return StepCost(
        factor * cost.step,
        factor * cost.prefill_token,
        factor * cost.sequence,
        factor * cost.kv_token,
    )


def _non_negative(gram: list[list[float]], right: list[float]) -> list[float]:
    """Minimise x·Gx − 2·r·x over x ≥ 0; G is positive definite."""
    everyone = range(len(right))
    best, least = [0.0] * len(right), 0.0
    for size in range(1, len(right) + 1):
        for free in combinations(everyone, size):
            found = _solve([[gram[i][j] for j in free] for i in free], [right[i] for i in free])
            if min(found) < 0:
                continue
            value = -sum(x * right[i] for x, i in zip(found, free, strict=True))
            if value < least:
                least = value
                best = [0.0] * len(right)
                for x, i in zip(found, free, strict=True):
                    best[i] = x
    return best


def _solve(gram: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by Gaussian elimination."""
    rows = [[*row, value] for row, value in zip(gram, right, strict=True)]
    size = len(rows)
    for pivot in range(size):
        for below in range(pivot + 1, size):
            factor = rows[below][pivot] / rows[pivot][pivot]
            for column in range(pivot, size + 1):
                rows[below][column] -= factor * rows[pivot][column]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * found[j] for j in range(i + 1, size))
        found[i] = (rows[i][size] - known) / rows[i][i]
    return found
