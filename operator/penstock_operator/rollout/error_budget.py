"""Whether a new revision fails more requests than the old one, as far as counts can tell. Pure.

It does when even the lower 99 % bound of its share of failures exceeds the old one's upper bound by
more than what is tolerated, so that a handful of unlucky requests never rolls anything back.
Source of the bounds: Wilson, "Probable inference, the law of succession, and statistical
inference", Journal of the American Statistical Association 22 (1927).
"""

from math import sqrt

Z = 2.33
"""Standard errors of a one-sided 99 % bound."""
ENOUGH = 20
"""Requests that a revision must have ended before its failures are judged."""
TOLERATED = 0.01
"""Share of failures that a new revision may have beyond the old one's."""


def over_budget(new: tuple[int, int], old: tuple[int, int]) -> str:
    """Return why the new revision fails too many requests, or nothing.

    Args:
        new: requests that the new revision has ended, and how many of them failed.
        old: the same of the old one; with too few of them, it counts as never failing.
    """
    if new[0] < ENOUGH:
        return ""
    low = _wilson(*new, sign=-1)
    high = _wilson(*old, sign=1) if old[0] >= ENOUGH else 0.0
    if low <= high + TOLERATED:
        return ""
    return f"{new[1]} of {new[0]} requests failed, where {old[1]} of {old[0]} did before"


def _wilson(requests: int, failures: int, sign: int) -> float:
    share, square = failures / requests, Z * Z
    middle = share + square / (2 * requests)
    spread = Z * sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    return (middle + sign * spread) / (1 + square / requests)
