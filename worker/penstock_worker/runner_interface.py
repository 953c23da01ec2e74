"""What the engine asks of whatever computes its steps. No torch here."""

from typing import Protocol

from penstock_worker.messages import TokenLogprobs
from penstock_worker.scheduler import Slice

Sampled = tuple[int, TokenLogprobs | None]


class Runner(Protocol):
    """Computes slices; the engine knows no more of it."""

    def run(self, slices: list[Slice]) -> list[Sampled]:
        """Return a sampled token for every slice that reaches its last known token, in order."""
