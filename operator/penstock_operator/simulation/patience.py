"""Runs that cannot hold the objective any more need not be played to their end.

A search tries dozens of sizes, and those that are too small are the slowest to simulate, because
everything queues. Once more requests have ended late than the objective allows of the whole trace,
nothing that follows can help.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_operator.simulation.fleet import DecideAll
from penstock_operator.simulation.setup import Sample


class Hopeless(Exception):
    """The run has missed the objective already."""


@dataclass(frozen=True)
class Patience:
    """A policy that gives up: `decide`, until more than `late` requests have ended late."""

    decide: DecideAll
    late: float

    def __call__(self, samples: Sequence[Sample]) -> Sequence[int]:
        """Return the sizes to ask for.

        Raises:
            Hopeless: too many requests were late.
        """
        if samples[-1].late > self.late:
            raise Hopeless
        return self.decide(samples)


def allowed_late(trace: Sequence[object], wanted: float) -> float:
    """Return how many requests may be late; a little more, for what rounding does to shares."""
    return (1 - wanted) * len(trace) + 1e-6
