"""The choice of a worker: the one that would have to compute least before the first token.

Everything is measured in one unit, bytes of prompt to compute:

    cost(w) = waiting(w) + (prompt − matched(w)) + CROWD · in_flight(w)

`waiting` is what was sent to the worker and has not answered yet, `matched` what it has probably
cached, and the last term what each resident sequence costs in decode speed. A hot prefix therefore
attracts requests only until the queue in front of it outweighs the computation that it saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CROWD = 2048
"""Bytes of prompt whose computation delays a request about as much as one more sequence does: a
chunk of some 500 tokens beside the step time that a decoding sequence adds until it ends."""


@dataclass(frozen=True)
class Candidate:
    """A ready worker as the gateway sees it."""

    id: str
    in_flight: int
    """Requests that it is working on."""
    waiting_bytes: int
    """Uncached prompt bytes of requests that have not answered yet."""
    matched_bytes: int
    """Bytes of this prompt that it has probably cached."""
    preferred: bool = True
    """Others come after all preferred ones, whatever their cost."""


@dataclass(frozen=True)
class Choice:
    """A candidate with its cost and why."""

    id: str
    cost: int
    matched_bytes: int
    reason: str


def rank(candidates: Sequence[Candidate], prompt_bytes: int, tie: float) -> list[Choice]:
    """Return the candidates, best first.

    Args:
        candidates: ready workers; may be empty.
        prompt_bytes: size of the prompt.
        tie: a random number in [0, 1) that breaks ties, so that several gateways that see the same
            do not all choose the same.
    """
    # Rotating before the stable sort makes the order among equals a matter of `tie` alone.
    offset = int(tie * len(candidates))
    rotated = [*candidates[offset:], *candidates[:offset]]
    weighed = [(not candidate.preferred, _weigh(candidate, prompt_bytes)) for candidate in rotated]
    return [choice for _, choice in sorted(weighed, key=lambda pair: (pair[0], pair[1].cost))]


def _weigh(candidate: Candidate, prompt_bytes: int) -> Choice:
    uncached = max(0, prompt_bytes - candidate.matched_bytes)
    crowd = CROWD * candidate.in_flight
    reason = (
        f"waiting={candidate.waiting_bytes}B uncached={uncached}B "
        f"matched={candidate.matched_bytes}B in_flight={candidate.in_flight}"
    )
    cost = candidate.waiting_bytes + uncached + crowd
    return Choice(candidate.id, cost, candidate.matched_bytes, reason)
