"""How many sequences workers can decode at the pace that a deployment asks for. Pure."""

import sys
from collections.abc import Iterable

from penstock_gateway.routing.speed import TYPICAL_OUTPUT
from penstock_gateway.routing.worker_load import Load


def sequences_within(loads: Iterable[Load], seconds: float) -> int:
    """Return the sequences of all workers together whose steps take at most so many seconds.

    By what each worker has measured that its steps cost, with contexts as long as those it has. At
    least one of each, however slow it is; without a bound where one has not told.
    """
    total = 0
    for load in loads:
        if load.cost is None:
            return sys.maxsize
        found = load.cost.sequences_within(seconds, _context(load))
        total += max(1, int(min(found, sys.maxsize)))
    return total


def _context(load: Load) -> float:
    """Return the tokens that a sequence of a worker has, about."""
    resident = len(load.kv) + load.others_resident
    return (load.kv_used + load.others_kv) / resident if resident else TYPICAL_OUTPUT
