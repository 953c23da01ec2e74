"""What the engine asks of whatever guesses tokens. No torch here."""

from collections.abc import Sequence
from typing import Protocol

from penstock_worker.request import Request


class Proposer(Protocol):
    """Guesses how outputs go on."""

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return draft tokens for each request, none where nothing is to be guessed."""
