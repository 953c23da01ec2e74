"""How many servers keep a queue short: Erlang's formula, scaled for bursts.

Prefill is a queue in the classic sense: a prompt holds a replica for its own prefill time, and the
wait before it is what the TTFT objective bounds. Erlang C is exact for Poisson arrivals and
exponential times; Kingman's factor (Ca² + Cs²)/2 stretches the wait for burstier ones (Kingman,
"The single server queue in heavy traffic", 1961; Whitt, "Understanding the efficiency of
multi-server service systems", 1992).
"""

from math import ceil, exp


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that an arrival waits. load in Erlang; 1 where it exceeds servers."""
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion: stable for any size
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - (load / servers) * (1 - blocked))


def share_waiting_longer(
    servers: int, load: float, patience: float, arrival_cv2: float = 1.0, service_cv2: float = 1.0
) -> float:
    """Return the share of arrivals that wait longer than `patience` mean service times."""
    if load >= servers:
        return 1.0
    burst = max(1e-9, arrival_cv2 + service_cv2)
    return erlang_c(servers, load) * exp(-2 * (servers - load) * max(0.0, patience) / burst)


def servers_for(
    load: float,
    patience: float,
    late_share: float,
    arrival_cv2: float = 1.0,
    service_cv2: float = 1.0,
    limit: int = 10_000,
) -> int:
    """Return the fewest servers at which at most `late_share` wait longer than `patience`.

    patience is in mean service times; the result is at most `limit`.
    """

    def late(servers: int) -> float:
        return share_waiting_longer(servers, load, patience, arrival_cv2, service_cv2)

    low = max(0, ceil(load))
    high = max(1, low)
    while high < limit and late(high) > late_share:
        high = min(limit, high * 2)
    while low < high:  # the share falls with every server
        middle = (low + high) // 2
        if late(middle) > late_share:
            low = middle + 1
        else:
            high = middle
    return high
