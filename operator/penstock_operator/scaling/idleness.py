"""Whether a deployment is idle. Missing metrics are no idleness: it needs positive evidence."""

from penstock_operator.scaling.observation import Observation


def idle_since(before: float | None, seen: Observation, now: float) -> float | None:
    """Return since when the deployment has been idle; None while it is not, or nobody can tell.

    Idle means: the gateway's arrival counter is there, fresh and does not move, nothing is queued,
    and every pool with ready workers reports, freshly, that nothing runs or waits.
    """
    traffic = seen.traffic
    quiet = [traffic.arrivals, traffic.queued_requests]
    for pool in seen.pools.values():
        if pool.starting:
            return None
        if pool.ready:
            quiet += [pool.running, pool.waiting_tokens]
    if not all(signal.fresh and signal.value == 0 for signal in quiet):
        return None
    return now if before is None else before
