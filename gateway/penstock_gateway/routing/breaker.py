"""Keeps requests away from a worker that failed, until a probe has found it well again.

Closed, it lets everything through. A failure opens it for a pause; when that is over a probe is
due, not a client's request: success closes it, failure begins a longer pause. Only a real answer
makes it forget the failures before, so a worker that is well when probed and fails when used is
tried less and less often. Answers that are errors open it when several come in a row.

So do answers that are broken off in good order. Whoever leaves does that, and is gone soon; who
stays does nothing else. They may begin well, so only a whole answer makes it forget them.
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
    broken_off: int = 0
    """Answers in a row that were broken off in good order, but for those of one accident."""

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
        return Breaker(self.failures + 1, True, now + pause, broken_off=self.broken_off)

    def erred(self, now: float) -> "Breaker":
        """Return the state after an answer that is an error."""
        if self.errors + 1 >= ERRORS:
            return self.failed(now)
        return replace(self, errors=self.errors + 1)

    def broke_off(self, now: float) -> "Breaker":
        """Return the state after an answer that was broken off: ever longer pauses from some on."""
        if self.open and now < self.probe_at:
            return self
        known = replace(self, broken_off=self.broken_off + 1)
        times = known.broken_off - ERRORS
        if times < 0:
            return known
        return replace(known, failures=max(self.failures, times)).failed(now)

    @property
    def only_breaks_off(self) -> bool:
        """Whether it was put aside for that, and still is there: so it was not about to leave."""
        return self.broken_off >= ERRORS and not self.open

    def probed(self) -> "Breaker":
        """Return the state after a probe that succeeded."""
        return Breaker(self.failures, broken_off=self.broken_off)

    def succeeded(self) -> "Breaker":
        """Return the state after the beginning of an answer."""
        return Breaker(broken_off=self.broken_off) if self.broken_off else CLOSED

    def finished(self) -> "Breaker":
        """Return the state after a whole answer."""
        return replace(self, broken_off=0) if self.broken_off else self


CLOSED: Final = Breaker()
"""Of a worker that nothing is held against."""
