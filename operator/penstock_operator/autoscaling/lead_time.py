"""How long a decision takes to have an effect: what the forecast looks ahead by. Pure."""

from collections.abc import Iterable

from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.scrape import ScrapePair


def lead_time(
    pairs: Iterable[ScrapePair], interval: float, overhead: float, unknown: float
) -> float:
    """Return the seconds from a change in demand to a new worker that serves.

    Args:
        pairs: of the workers; each exports how long it took to load.
        interval: seconds between two decisions; demand is noticed one later, on average.
        overhead: seconds that a worker needs before it can begin to load: a node, a pod.
        unknown: seconds to assume for a start that nobody has measured.
    """
    loads = [t for pair in pairs if (t := pair.latest.total(names.LOAD_SECONDS))]
    start = sorted(loads)[len(loads) // 2] + overhead if loads else unknown
    return 2 * interval + start
