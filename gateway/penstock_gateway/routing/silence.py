"""How long a worker may be silent before it is taken for hung. Pure.

A worker that decodes says something every few milliseconds, so silence of all its streams at once
is telling; how telling is learned from its own pauses. Suspicion costs a question about its health
only. No answer to that either means that it hangs; with one, it may still be that the engine behind
the server stands still, which takes longer to be sure of.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

UNKNOWN_PAUSE: Final = 0.25
"""Seconds: the longest pause in a stream of a worker of which nothing is known yet."""
SUSPICIOUS: Final = (4.0, 0.5, 5.0)
"""Multiple of the usual longest pause, and the bounds of the result in seconds."""
HUNG: Final = (20.0, 10.0, 120.0)
"""The same, for a worker whose server still answers: a long prompt may hold up its streams."""
HEALTH_WAIT: Final = 0.5
"""Seconds for an answer about its health, of a worker whose streams have stopped."""
QUIET_HEALTH_WAIT: Final = 3.0
"""The same of one that had nothing to say yet: it may be that the machine is just very busy."""
LONGEST_PREFILL: Final = 300.0
"""Seconds without a word while no stream has begun: prompts may take long, but not for ever."""
_RISE: Final = 0.5
_FALL: Final = 0.1


def health_wait(*, decoding: bool) -> float:
    """Return how long a silent worker gets to say that it is well; it is asked twice."""
    return HEALTH_WAIT if decoding else QUIET_HEALTH_WAIT


class Verdict(Enum):
    """What silence means."""

    WELL = auto()
    SUSPICIOUS = auto()
    """Ask for its health."""
    HUNG = auto()


@dataclass(frozen=True)
class Tempo:
    """A worker's usual longest pause inside a stream, in seconds."""

    pause: float = UNKNOWN_PAUSE

    def ended(self, longest: float) -> "Tempo":
        """Return the tempo after a stream with this longest pause; rises faster than it falls."""
        weight = _RISE if longest > self.pause else _FALL
        return Tempo(self.pause + weight * (longest - self.pause))

    def judge(self, silent: float, *, decoding: bool) -> Verdict:
        """Return what a silence of all of the worker's streams means.

        Args:
            silent: seconds.
            decoding: whether a stream has begun, so that there should be tokens.
        """
        if silent >= (self._bounded(HUNG) if decoding else LONGEST_PREFILL):
            return Verdict.HUNG
        return Verdict.SUSPICIOUS if silent >= self.suspicious_after else Verdict.WELL

    @property
    def suspicious_after(self) -> float:
        """Seconds of silence."""
        return self._bounded(SUSPICIOUS)

    def _bounded(self, rule: tuple[float, float, float]) -> float:
        factor, least, most = rule
        return min(most, max(least, factor * self.pause))
