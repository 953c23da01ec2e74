"""Whether workers can take another prompt, by what is known of each of them. Pure."""

import math
from collections.abc import Iterable

from penstock_gateway.routing.worker_load import Load


def room_in(loads: Iterable[Load], backlog: float) -> float:
    """Return in about how many seconds one of some workers can take another prompt; 0: now.

    Args:
        loads: of the workers; nobody is made to wait where there is none.
        backlog: seconds of prompts that a worker is given ahead.

    One that nothing is known of yet is taken to be as fast as the fastest of the others.
    """
    found = list(loads)
    usual, soonest = -1.0, math.inf
    for load in found:
        token = load.known_token
        if not token:
            usual = usual if usual >= 0.0 else fastest(found)
            token = usual
        soonest = min(soonest, load.room_in(backlog, token))
        if soonest <= 0.0:
            break
    return soonest if soonest < math.inf else 0.0


def prompt_seconds(loads: Iterable[Load], size: int) -> float:
    """Return how long a prompt of so many bytes takes the fastest worker by itself.

    It can still be in time as long as that one could be; 0 where of none is known how fast it is.
    """
    known = [load.tokens(size) * load.known_token for load in loads if load.known_token]
    return min(known, default=0.0)


def fastest(loads: Iterable[Load]) -> float:
    """Return the seconds for a prompt token of the fastest of some workers; 0: not known."""
    return min([load.known_token for load in loads if load.known_token], default=0.0)


def any_idle(loads: Iterable[Load]) -> bool:
    """Return whether one of some workers has nothing to do."""
    return any(not (load.kv or load.others_resident) for load in loads)
