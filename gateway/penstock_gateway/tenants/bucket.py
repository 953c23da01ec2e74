"""A token bucket: so much per minute, all of it at once if it has been saved. Pure."""

from dataclasses import dataclass, replace

MINUTE = 60.0


@dataclass(frozen=True)
class Bucket:
    """Fills at `per_minute`, up to a minute's worth. Times are monotonic seconds.

    What was used before it was known may leave it below zero: later requests wait for that.
    """

    per_minute: int
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> "Bucket":
        """Return one that nothing was taken from."""
        return cls(per_minute, per_minute, now)

    def resized(self, per_minute: int, now: float) -> "Bucket":
        """Return it with another size; what was taken in the last minute stays taken."""
        taken = self.per_minute - self.left(now)
        return Bucket(per_minute, per_minute - taken, now)

    def left(self, now: float) -> float:
        """Return what is in it."""
        gained = (now - self.at) * self.per_minute / MINUTE
        return min(float(self.per_minute), self.level + gained)

    def take(self, amount: float, now: float) -> "Bucket":
        """Return it without an amount; a negative one is given back."""
        return replace(self, level=min(float(self.per_minute), self.left(now) - amount), at=now)

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until an amount is in it, which is no more than it holds."""
        missing = amount - self.left(now)
        return max(0.0, missing * MINUTE / self.per_minute)

    def reset(self, now: float) -> float:
        """Return the seconds until it is full."""
        return self.wait(self.per_minute, now)
