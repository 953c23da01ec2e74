"""How much of the measured forecast error to cover so that the objective is met: learned.

How often demand exceeds capacity and how often requests are late are not the same share: a small
excess is absorbed, a long one makes a queue that is late for minutes. So the head-room is a factor
on a fixed quantile of past errors, and the factor follows what is measured: it rises while more
requests are late than it aims at and falls slowly while fewer are. This is quantile tracking
(Angelopoulos, Candès and Tibshirani, "Conformal PID control for time series prediction", NeurIPS
2023) with the share of late requests as its error, and with steps that become smaller the more has
been learned (Angelopoulos, Barber and Bates, "Online conformal prediction with decaying step
sizes", ICML 2024): large steps for ever let the factor fall in every calm hour, and the next burst
finds a pool that is too small.

Each role has a factor of its own, since each has its own way to be late: first tokens wait for
prefill, tokens after it for decoding. A Unified pool answers for both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from penstock_contract.api import Role
from penstock_operator.scaling.need import DEFAULT_TPOT, DEFAULT_TTFT
from penstock_operator.scaling.observation import Traffic
from penstock_operator.scaling.signal import Signal
from penstock_operator.scaling.spec import ScalingSpec

LEAST = 0.25
MOST = 4.0
RATE = 1.0 / 10
"""Growth of the factor's logarithm per second and unit of lateness, before anything is learned."""
SETTLING = 900.0
"""Seconds of news after which it is half of that."""
DAY = 86400.0
"""Seconds of news from which it stays as small as it is."""
RISE = 1.3
"""The most that the factor grows by in one lead: what it is now shows only when its replicas serve,
and until then the same burst must not be counted again and again."""
AIM = 0.5
"""Share of the allowed lateness that is aimed at: a burst that ends a calm day cannot be made up
for, and steps that are cut by RISE lose some of what they should have learned."""
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


@dataclass(frozen=True)
class Cover:
    """The factor on forecast errors of one role, and how much it has learned from."""

    factor: float = 1.0
    learned: float = 0.0
    """Seconds of news of lateness, weighed by what came in them; a day at most."""

    def after(self, late_share: Signal, allowed: float, news: "News") -> "Cover":
        """Return the factor that has seen how many requests were late.

        Args:
            late_share: of the requests that ended since.
            allowed: the share that the objective allows to be late.
            news: how much the news counts.
        """
        if not late_share.fresh or late_share.value is None:
            return self
        learned = min(DAY, self.learned + news.weighed)
        rate = RATE / (1 + learned / SETTLING)
        step = rate * news.weighed * (late_share.value - AIM * allowed)
        step = min(step, log(RISE) * news.leads)
        return Cover(min(MOST, max(LEAST, self.factor * exp(step))), learned)


@dataclass(frozen=True)
class News:
    """How much time has passed since lateness was last looked at."""

    weighed: float
    """Seconds, weighed by what came in them."""
    leads: float
    """The time that a new replica takes to serve is 1."""


def covers(
    before: Mapping[Role, Cover], traffic: Traffic, spec: ScalingSpec, news: News
) -> dict[Role, Cover]:
    """Return every role's factor on forecast errors.

    Args:
        before: what they were; a role that is not there begins anew.
        traffic: the shares of late requests, since then.
        spec: the objectives.
        news: how much the news counts.
    """
    ttft, tpot = spec.ttft or DEFAULT_TTFT, spec.tpot or DEFAULT_TPOT
    any_of_both = spec.strictest or DEFAULT_TTFT.quantile
    lateness = {
        Role.UNIFIED: (traffic.late_share, any_of_both),
        Role.PREFILL: (traffic.late_ttft, ttft.quantile),
        Role.DECODE: (traffic.late_tpot, tpot.quantile),
    }
    return {
        role: before.get(role, Cover()).after(late, 1 - quantile, news)
        for role, (late, quantile) in lateness.items()
    }
