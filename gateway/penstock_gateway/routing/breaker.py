"""Keeps requests away from a worker that failed, until a probe has found it well again.

Closed, it lets everything through. A failure opens it for a pause; when that is over a probe is
due, not a client's request: success closes it, failure begins a longer pause. Only a real answer
makes it forget the failures before, so a worker that is well when probed and fails when used is
tried less and less often. Answers that are errors open it when several come in a row.
"""

from dataclasses import dataclass, replace
from typing import Final

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
ERRORS = 5
"""Errors in a row that count as a failure."""


@dataclass(frozen=True)
class Breaker:
    """The state of one worker; times are monotonic seconds."""

    failures: int = 0
    open: bool = False
    probe_at: float = 0.0
    errors: int = 0
    """Answers in a row that were errors."""

    def due(self, now: float) -> bool:
        """Return whether the worker should be probed."""
        return self.open and now >= self.probe_at

    def failed(self, now: float) -> "Breaker":
        """Return the state after a failure: twice the pause of the one before.

        Failures during a pause belong to the accident that began it: many streams break at once.
        """
        if self.open and now < self.probe_at:
            return self
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        return Breaker(self.failures + 1, True, now + pause)

    def erred(self, now: float) -> "Breaker":
        """Return the state after an answer that is an error."""
        if self.errors + 1 >= ERRORS:
            return self.failed(now)
        return replace(self, errors=self.errors + 1)

    def probed(self) -> "Breaker":
        """Return the state after a probe that succeeded."""
        return Breaker(self.failures)

    def succeeded(self) -> "Breaker":
        """Return the state after an answer."""
        return CLOSED


CLOSED: Final = Breaker()
"""Of a worker that nothing is held against."""
