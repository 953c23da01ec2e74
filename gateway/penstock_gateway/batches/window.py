"""How many requests of a batch may be in flight: as many as are to spare. Pure.

Additive increase, multiplicative decrease (Chiu and Jain, 1989), as TCP has it: each answer opens
the window a little, a refusal halves it once for all that was sent before. Batches that meet at one
pool come to equal parts of it without knowing of each other. Until the first refusal the window
doubles with every round of answers (slow start).
"""

from dataclasses import dataclass, replace

LONGEST_PAUSE = 30.0
"""Seconds; what is free is found that late at most."""
FIRST_PAUSE = 0.5


@dataclass(frozen=True)
class Window:
    """Times are monotonic seconds."""

    size: float = 1.0
    slow_start: bool = True
    resumes_at: float = 0.0
    cut_at: float = float("-inf")
    """When it was last halved; what was sent before says nothing new."""
    refused_in_a_row: int = 0

    def room(self, in_flight: int, most: int, now: float) -> int:
        """Return how many more may be sent."""
        if now < self.resumes_at:
            return 0
        return max(0, min(int(self.size), most) - in_flight)

    def answered(self, most: int) -> "Window":
        """A request was answered."""
        more = 1.0 if self.slow_start else 1.0 / self.size
        size = max(self.size, min(self.size + more, float(most)))
        return replace(self, size=size, refused_in_a_row=0)

    def refused(self, sent_at: float, now: float, retry_after: float) -> "Window":
        """A request was refused for now.

        Args:
            sent_at: when it was sent.
            now: the present.
            retry_after: seconds that the refusal asks for; 0: it says nothing.
        """
        if sent_at < self.cut_at:
            return self
        patience = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.refused_in_a_row)
        wait = min(LONGEST_PAUSE, max(patience, retry_after))
        return Window(
            size=max(1.0, self.size / 2),
            slow_start=False,
            resumes_at=now + wait,
            cut_at=now,
            refused_in_a_row=min(self.refused_in_a_row + 1, 10),
        )
