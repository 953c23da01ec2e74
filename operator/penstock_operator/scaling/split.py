"""Several pools of one role: which part of the work each of them is to carry.

Every pool could carry all of it with some number of replicas of its own kind, at some price. The
cheapest one gets as much as its bounds let it carry, then the next; what must run anyway (a fixed
size, a minimum) carries its part first. What nobody can carry is left with the last one, whose
bounds then say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Carrier:
    """One pool. Counts are replicas."""

    name: str
    alone: float
    """That it would need to carry everything."""
    minimum: int
    maximum: int
    cost: float


def shares(carriers: Sequence[Carrier]) -> Mapping[str, float]:
    """Return the share of the work of each pool; they add up to 1."""
    left = 1.0
    found = dict.fromkeys((carrier.name for carrier in carriers), 0.0)
    by_price = sorted(carriers, key=lambda c: (c.alone * c.cost, c.name))
    for bound in ("minimum", "maximum"):
        for carrier in by_price:
            most = getattr(carrier, bound) / carrier.alone if carrier.alone > 0 else 1.0
            part = min(left, max(0.0, most - found[carrier.name]))
            found[carrier.name] += part
            left -= part
    if by_price:
        found[by_price[-1].name] += max(0.0, left)
    return found
