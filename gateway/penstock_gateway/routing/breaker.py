"""Keeps requests away from a worker that cannot be reached, for a while that grows."""

from dataclasses import dataclass

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Breaker:
    """The state of one worker; times are monotonic seconds."""

    failures: int = 0
    open_until: float = 0.0

    def allows(self, now: float) -> bool:
        """Return whether the worker may be tried."""
        return now >= self.open_until

    def failed(self, now: float) -> "Breaker":
        """Return the state after a failure: twice the pause of the one before.

        Failures during a pause belong to the accident that began it: many streams break at once.
        """
        if now < self.open_until:
            return self
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 16))
        return Breaker(self.failures + 1, now + pause)

    def succeeded(self) -> "Breaker":
        """Return the state after an answer."""
        return Breaker()
