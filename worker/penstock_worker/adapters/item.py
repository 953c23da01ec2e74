"""One adapter that is wanted, and how far it is."""

import asyncio
import math
from dataclasses import dataclass, field
from pathlib import Path

from penstock_contract.adapters import AdapterFound, AdapterState, WantedAdapter

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds until what failed is tried again; doubled each time."""
DOUBLINGS = 16
"""Of a pause; more would only be larger numbers."""
ENDINGS = 2
"""Times that an engine ends while it loads an adapter, after which the adapter is to blame."""


@dataclass
class Item:
    """One adapter that is wanted. Times are of the keeper's clock."""

    wanted: WantedAdapter
    folder: Path | None = None
    download: asyncio.Task[Path] | None = None
    found: AdapterFound = field(default_factory=AdapterFound)
    failures: int = 0
    endings: int = 0
    again_at: float = 0.0

    def note(self, state: AdapterState, message: str = "") -> None:
        """Take down how far it is."""
        self.found = AdapterFound(
            state=state, uri=self.wanted.uri, revision=self.wanted.revision, message=message
        )

    def failed(self, message: str, now: float) -> None:
        """Take down why it is not there, and when it is tried again."""
        self.note(AdapterState.FAILED, message)
        self.again_at = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.failures)
        self.failures = min(self.failures + 1, DOUBLINGS)

    @property
    def given_up(self) -> bool:
        """Whether it is not tried again until it is changed."""
        return self.endings >= ENDINGS

    def ended_its_engine(self, now: float) -> None:
        """It may have been an accident, once: an adapter must not keep the model away."""
        self.endings += 1
        rest = ": it is not tried again until it is changed" if self.given_up else ""
        self.failed(f"the engine ended while it loaded this adapter{rest}", now)
        self.again_at = math.inf if self.given_up else self.again_at
