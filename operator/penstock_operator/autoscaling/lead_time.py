"""How long a decision takes to have an effect: what the forecast looks ahead by. Pure."""

from collections.abc import Iterable

from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.scrape import ScrapePair


def load_time(pairs: Iterable[ScrapePair], before: float | None) -> float | None:
    """Return the seconds that a worker takes to load; None: nobody knows.

    Args:
        pairs: of the workers; each exports how long it took.
        before: what was known; it holds while there is no worker to ask.
    """
    loads = [t for pair in pairs if (t := pair.latest.total(names.LOAD_SECONDS))]
    return sorted(loads)[len(loads) // 2] if loads else before


def lead_time(load: float | None, interval: float, overhead: float, unknown: float) -> float:
    """Return the seconds from a change in demand to a new worker that serves.

    Args:
        load: seconds that a worker takes to load; None: not known.
        interval: seconds between two decisions; demand is noticed one later, on average.
        overhead: seconds that a worker needs before it can begin to load: a node, a pod.
        unknown: seconds to assume for a start that nobody has measured.
    """
    return 2 * interval + (unknown if load is None else load + overhead)
