"""How much of the measured forecast error to cover so that the objective is met: learned.

How often demand exceeds capacity and how often requests are late are not the same share: a small
excess is absorbed, a long one makes a queue that is late for minutes. So the head-room is a factor
on a fixed quantile of past errors, and the factor follows what is measured: it rises while more
requests are late than the objective allows and falls slowly while fewer are. This is quantile
tracking (Angelopoulos, Candès and Tibshirani, "Conformal PID control for time series prediction",
NeurIPS 2023) with the share of late requests as its error.

Each role has a factor of its own, since each has its own way to be late: first tokens wait for
prefill, tokens after it for decoding. A Unified pool answers for both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from penstock_contract.api import Role
from penstock_operator.scaling.need import DEFAULT_TPOT, DEFAULT_TTFT
from penstock_operator.scaling.observation import Traffic
from penstock_operator.scaling.signal import Signal
from penstock_operator.scaling.spec import ScalingSpec

LEAST = 0.25
MOST = 4.0
RATE = 1.0 / 20
"""Growth of the factor's logarithm per second and unit of lateness."""
HOUR = 3600.0
"""Seconds over which arrivals are averaged."""
HEAVIEST = 4.0
"""Weight of a moment with however many arrivals."""


@dataclass(frozen=True)
class Usual:
    """Arrivals per second over the last hour.

    The objective counts requests, so a moment in which twice as many come counts twice.
    """

    rate: float = 0.0
    seconds: float = 0.0
    """That were averaged, an hour at most."""

    def after(self, arrivals: Signal, elapsed: float) -> "Usual":
        """Return the average with the last `elapsed` seconds."""
        if not arrivals.fresh or arrivals.value is None or elapsed <= 0:
            return self
        seconds = min(HOUR, self.seconds + elapsed)
        share = min(1.0, elapsed / seconds)
        return Usual(self.rate + share * (arrivals.value - self.rate), seconds)

    def weight(self, arrivals: Signal) -> float:
        """Return how much more than usual comes; 1 when nobody knows."""
        if not arrivals.fresh or arrivals.value is None or self.rate <= 0:
            return 1.0
        return min(HEAVIEST, arrivals.value / self.rate)


def covers(
    before: Mapping[Role, float], traffic: Traffic, spec: ScalingSpec, elapsed: float
) -> dict[Role, float]:
    """Return every role's factor on forecast errors.

    Args:
        before: what they were; a role that is not there begins with 1.
        traffic: the shares of late requests, since then.
        spec: the objectives.
        elapsed: seconds since they were computed, weighed by what came in them.
    """
    ttft, tpot = spec.ttft or DEFAULT_TTFT, spec.tpot or DEFAULT_TPOT
    any_of_both = spec.strictest or DEFAULT_TTFT.quantile
    lateness = {
        Role.UNIFIED: (traffic.late_share, any_of_both),
        Role.PREFILL: (traffic.late_ttft, ttft.quantile),
        Role.DECODE: (traffic.late_tpot, tpot.quantile),
    }
    return {
        role: cover(before.get(role, 1.0), late, 1 - quantile, elapsed)
        for role, (late, quantile) in lateness.items()
    }


def cover(before: float, late_share: Signal, allowed: float, elapsed: float) -> float:
    """Return the factor on forecast errors.

    Args:
        before: what it was.
        late_share: of the requests that ended since.
        allowed: the share that the objective allows to be late.
        elapsed: seconds since it was computed.
    """
    if not late_share.fresh or late_share.value is None:
        return before
    error = late_share.value - allowed
    return min(MOST, max(LEAST, before * exp(RATE * elapsed * error)))
