"""What is wrong with a replica that spans nodes, and may mend by itself if it gets the time. Pure.

Processes that lose one of their group mostly notice, end and are started again. But a vLLM that
lost its leader, or a leader that computes nothing just then, may wait for ever; and a pod on a node
that does not answer is never gone.
"""

from datetime import datetime

from penstock_operator.cluster.groups import Group
from penstock_operator.cluster.observed import Observed, Pod
from penstock_operator.manifests import rejoins

MEETS_WITHIN = 30.0
"""Seconds that the processes of a broken group get to notice it."""
RETRIES_AFTER = 10.0
"""Seconds until a follower that has ended for good is made anew: a node that cannot take it may end
the next one at once."""
LOST_AFTER = 60.0
"""Seconds beyond its grace after which a pod is taken for lost with its node."""
FINDS_WITHIN = 300.0
"""Seconds that a follower may wait for a node before replicas are given up for one another: as
long as most clusters take to add one."""
SKEW = 5.0
"""Seconds by which the clocks of two nodes may differ."""


def ailments(group: Group) -> dict[str, float]:
    """Return what ails a group, and the seconds after which it does not mend any more."""
    leader, others = group.leader, group.followers.values()
    found = {lost(pod): pod.grace + LOST_AFTER for pod in (leader, *others) if pod.deleting}
    if leader.deleting:
        return found
    found |= {ended(pod): RETRIES_AFTER for pod in others if pod.over and not pod.deleting}
    if any(pod.unschedulable and not pod.deleting for pod in others):
        found[half(leader)] = FINDS_WITHIN
    if not rejoins(group.template):
        found |= {left_over(pod): MEETS_WITHIN for pod in others if _is_left_over(pod, leader)}
    if leader.ready and _is_alone(group):
        found[alone(leader)] = MEETS_WITHIN
    return found


def incurable(observed: Observed, group: Group) -> set[str]:
    """Return what has ailed a group for too long."""
    since, now = observed.since, observed.now
    return {it for it, after in ailments(group).items() if now - since.get(it, now) >= after}


def again_in(observed: Observed, group: Group) -> float | None:
    """Return the seconds until something is incurable that is not yet; None: nothing will be."""
    since, now = observed.since, observed.now
    left = [since.get(it, now) + after - now for it, after in ailments(group).items()]
    return min((wait for wait in left if wait > 0), default=None)


def lost(pod: Pod) -> str:
    """Name the ailment of a pod that is being deleted and does not go."""
    return f"{pod.uid} does not go"


def ended(pod: Pod) -> str:
    """Name the ailment of a pod that has ended for good, and is kept only to be looked at."""
    return f"{pod.uid} has ended"


def half(leader: Pod) -> str:
    """Name the ailment of a replica that holds nodes, and finds no more of them."""
    return f"{leader.uid} is half of a replica"


def left_over(follower: Pod) -> str:
    """Name the ailment of a follower that computes for an earlier process of its leader."""
    return f"{follower.uid} is left over"


def alone(leader: Pod) -> str:
    """Name the ailment of a leader that says it is ready, and has lost a part of its group."""
    return f"{leader.uid} is alone"


def _is_left_over(follower: Pod, leader: Pod) -> bool:
    return not follower.deleting and _before(follower.started, leader.ended)


def _is_alone(group: Group) -> bool:
    return bool(group.missing) or any(
        not pod.started or pod.deleting or _before(group.leader.ready_since, pod.started)
        for pod in group.followers.values()
    )


def _before(one: str, other: str) -> bool:
    """Whether a moment was before another on whichever nodes; one that never was is not."""
    if not one or not other:
        return False
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds() > SKEW
