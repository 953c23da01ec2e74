"""The other ways to choose a worker: to compare with, and for workers without a prefix cache."""

import math
import sys
from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from penstock_gateway.routing.policy import Candidate, Choice, rank, weigh

BOUND: Final = 1.25
"""Load, as a multiple of the mean, above which a worker is passed over by ConsistentHash."""


def rank_by(
    policy: str,
    candidates: Sequence[Candidate],
    prompt: int,
    *,
    tie: float,
    turn: int,
    key: int,
    most: int = sys.maxsize,
) -> list[Choice]:
    """Return the candidates, best first.

    Args:
        policy: PrefixAware, LeastLoad, RoundRobin or ConsistentHash.
        candidates: ready workers; may be empty.
        prompt: tokens.
        tie: a random number in [0, 1).
        turn: counts the requests, for RoundRobin.
        most: how many are wanted.
        key: what equal sessions or prompts have in common, for ConsistentHash.
    """
    match policy:
        case "RoundRobin":
            return _ordered(candidates, prompt, _in_turn(len(candidates), turn))
        case "LeastLoad":
            return _ordered(candidates, prompt, _by_load(candidates, tie))
        case "ConsistentHash":
            return _ordered(candidates, prompt, _by_hash(candidates, key))
        case _:
            return rank(candidates, prompt, tie, most)


def _ordered(candidates: Sequence[Candidate], prompt: int, costs: list[float]) -> list[Choice]:
    """Return the choices by cost, the preferred ones first."""
    choices = [
        Choice(candidate.copy(), cost, *weigh(candidate, prompt)[1:])
        for candidate, cost in zip(candidates, costs, strict=True)
    ]
    return sorted(choices, key=lambda choice: (not choice.candidate.preferred, choice.cost))


def _in_turn(count: int, turn: int) -> list[float]:
    return [float((n - turn) % count) for n in range(count)]


def _by_load(candidates: Sequence[Candidate], tie: float) -> list[float]:
    """Equal loads go in an order that begins anywhere."""
    count = len(candidates)
    first = int(tie * count)
    return [c.resident + (n - first) % count / count for n, c in enumerate(candidates)]


def _by_hash(candidates: Sequence[Candidate], key: int) -> list[float]:
    """Rendezvous hashing (Thaler and Ravishankar, 1998), with bounded loads.

    A worker that comes or goes moves only the keys that are its own. One whose load is above
    `BOUND` times the mean is passed over (Mirrokni, Thorup and Zadimoghaddam, 2018).
    """
    if not candidates:
        return []
    mean = (sum(c.resident for c in candidates) + 1) / len(candidates)
    most = math.ceil(BOUND * mean)
    return [
        (c.resident >= most) + xxh3_64_intdigest(c.id.encode(), key) / 2**64 for c in candidates
    ]
