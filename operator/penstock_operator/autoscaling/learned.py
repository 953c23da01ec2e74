"""What is learned from the metrics over minutes: lengths of requests, and what steps cost. Pure.

Both fade: lengths over some 500 requests, steps over ten minutes, so that another mix of requests,
or another revision on the same machines, is known soon.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, isfinite

from penstock_contract.step_cost import STEP_MOMENTS, StepCost, Totals, fit, scaled
from penstock_operator.scaling.curve import ServiceCurve

REQUESTS = 500.0
"""Requests after which a mean length follows the newest ones."""
FADES = 600.0
"""Seconds in which what is known of steps loses two thirds of its weight."""
TRUST = 0.05
"""Of the steps, that what a worker measured of itself counts for. Small batches alone cannot tell
what every step costs from what every sequence costs; larger ones soon outweigh it."""
USUAL = StepCost(0.015, 1e-4, 1e-4, 1e-7)
"""What is believed, in its proportions, of a worker that measured nothing: about a 70B model on
four H100. Under an even load nothing else tells every step's cost from every sequence's."""
LEAST = 0.25
"""Of those proportions: what is seen from outside is too coarse to tell that something is free."""
ENOUGH_STEPS = 20.0
"""Steps without which a worker that measured nothing itself has no curve, and one that did keeps
the scale that it measured."""


@dataclass(frozen=True)
class Mean:
    """A mean over the latest requests; `count` tells how far it can be trusted."""

    value: float = 0.0
    count: float = 0.0

    def after(self, total: float | None, count: float | None) -> "Mean":
        """Return the mean with so many more requests of so much together."""
        if total is None or not count or not isfinite(total + count) or total < 0 or count < 0:
            return self
        share = count / min(self.count + count, REQUESTS + count)
        return Mean(
            self.value + min(1.0, share) * (total / count - self.value),
            min(self.count + count, REQUESTS),
        )

    @property
    def known(self) -> float | None:
        """Return the mean; None before the first request."""
        return self.value if self.count else None


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a request."""

    given: Mean = Mean()
    """Of the prompt."""
    computed: Mean = Mean()
    """Of the prompt, as far as no cache held it."""
    taken: Mean = Mean()
    """Of the answer."""


@dataclass(frozen=True)
class Steps:
    """The latest steps of a pool's workers: the normal equations of their cost, and its scale."""

    sums: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STEP_MOMENTS, 0.0))
    totals: Totals = field(default_factory=Totals)

    def after(self, rises: Mapping[str, float], totals: Totals, seconds: float) -> "Steps":
        """Return the sums faded by the time that passed, and with the newest steps."""
        kept = exp(-max(0.0, seconds) / FADES)
        old, new = asdict(self.totals), asdict(totals)
        if not all(isfinite(rise) for rise in (*rises.values(), *new.values())):
            return self
        return Steps(
            {name: kept * self.sums[name] + rises.get(name, 0.0) for name in STEP_MOMENTS},
            Totals(**{name: kept * old[name] + new[name] for name in new}),
        )

    def curve(self, prior: StepCost | None, kv_tokens: float | None) -> ServiceCurve | None:
        """Return the service curve; None: too little is known."""
        count = self.totals.steps
        if kv_tokens is None or (prior is None and count < ENOUGH_STEPS):
            return None
        believed = prior or scaled(USUAL, self.totals)
        cost = fit(self.sums, believed, worth=max(1.0, TRUST * count))
        cost = cost if prior else _at_least(cost, believed)
        if count >= ENOUGH_STEPS:
            cost = scaled(cost, self.totals)
        return ServiceCurve(cost.step, cost.prefill_token, cost.sequence, cost.kv_token, kv_tokens)


def _at_least(cost: StepCost, usual: StepCost) -> StepCost:
    found, least = asdict(cost), asdict(usual)
    return StepCost(**{term: max(found[term], LEAST * least[term]) for term in found})


@dataclass(frozen=True)
class Learned:
    """All of it, for one deployment."""

    lengths: Lengths = Lengths()
    steps: Mapping[str, Steps] = field(default_factory=dict)
    """By pool."""
    curves: Mapping[str, ServiceCurve] = field(default_factory=dict)
    """By pool; the last one known stays while a pool is empty."""
    time: float | None = None
    """Of the last observation."""
