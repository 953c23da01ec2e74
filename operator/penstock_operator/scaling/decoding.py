"""Decode work in two ways: as offered, and as seen.

What is offered (arrivals times the mean length of the answers that ended) is ahead right after a
rise. What is seen (the work that decoding takes right now) knows what means do not: answers that
are longer than those that have ended, or long ones behind long prompts. The larger counts. Both
scatter, and the larger of two that scatter is too large, so they are compared over a minute.
"""

from dataclasses import dataclass
from math import exp

from penstock_operator.scaling.signal import Signal

MEMORY = 60.0
"""Seconds over which both are averaged (exponentially weighted)."""


@dataclass(frozen=True)
class Decoding:
    """Averages of both, in replica-seconds per second."""

    offered: float | None = None
    """None: nothing is known yet."""
    seen: float = 0.0

    def after(self, offered: float, seen: Signal, elapsed: float) -> "Decoding":
        """Return the averages with the last `elapsed` seconds."""
        if not seen.fresh or seen.value is None:
            return self
        if self.offered is None:
            return Decoding(offered, seen.value)
        share = 1 - exp(-max(0.0, elapsed) / MEMORY)
        return Decoding(
            self.offered + share * (offered - self.offered),
            self.seen + share * (seen.value - self.seen),
        )

    @property
    def beyond(self) -> float:
        """Return how much more is seen than was offered."""
        return max(0.0, self.seen - self.offered) if self.offered is not None else 0.0
