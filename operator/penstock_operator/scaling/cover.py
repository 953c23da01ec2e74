"""How much of the measured forecast error to cover so that the objective is met: learned.

How often demand exceeds capacity and how often requests are late are not the same share: a small
excess is absorbed, a long one makes a queue that is late for minutes. So the head-room is a factor
on a fixed quantile of past errors, and the factor follows what is measured: it rises while more
requests are late than the objective allows and falls slowly while fewer are. This is quantile
tracking (Angelopoulos, Candès and Tibshirani, "Conformal PID control for time series prediction",
NeurIPS 2023) with the share of late requests as its error.
"""

from math import exp

from penstock_operator.scaling.signal import Signal

LEAST = 0.25
MOST = 4.0
RATE = 1.0 / 60
"""Growth of the factor's logarithm per second and unit of lateness."""


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
