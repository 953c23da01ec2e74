"""What to do about the followers of one pool: made, made anew, taken away. Pure.

The cluster takes them away with their leader, whose they are. A group that does not mend by itself
is begun anew with another leader: its ReplicaSet sees to that.
"""

from collections.abc import Mapping

from penstock_contract.api import EnginePool
from penstock_operator.cluster.actions import Action, Create, Delete
from penstock_operator.cluster.ailments import alone, ended, half, incurable, left_over, lost
from penstock_operator.cluster.groups import Group, followers_wanted, groups_of, spans_nodes
from penstock_operator.cluster.observed import Observed, Pod
from penstock_operator.cluster.ownership import Owner, owned
from penstock_operator.manifests import Object, Place, follower, group_name, group_objects


def group_children(observed: Observed, pool: EnginePool) -> list[Object]:
    """Return what is to stand around a pool's groups: also of an older revision that has some."""
    there = ("PodDisruptionBudget", group_name(pool, "followers")) in observed.children
    if not there and pool.spec.parallelism.nodes == 1:
        return []
    found = observed.workloads_of(pool.spec.pool).values()
    return group_objects(pool, wanted=sum(map(followers_wanted, found)))


def follower_actions(observed: Observed, pool: EnginePool) -> list[Action]:
    """Return what brings the followers of a pool in line with their leaders."""
    found = groups_of(observed, pool)
    return [action for group in found for action in _in_line(observed, pool, group)]


def _in_line(observed: Observed, pool: EnginePool, group: Group) -> list[Action]:
    leader, ills = group.leader, incurable(observed, group)
    if leader.over or lost(leader) in ills:
        why = f"its leader {leader.name} does not run any more"
        return [_gone(pod, why) for pod in group.followers.values() if not pod.deleting]
    if leader.deleting:
        return []  # it finishes what it has with all of them, and they go with it
    hopeless = [pod for pod in group.followers.values() if lost(pod) in ills]
    if hopeless:
        return [_gone(leader, f"the node of its follower {hopeless[0].name} does not answer")]
    if alone(leader) in ills:
        return [_gone(leader, "it says that it is ready, and lacks a follower")]
    actions: list[Action] = [
        _gone(pod, why)
        for pod in group.followers.values()
        if not pod.deleting and (why := _unfit(pod, leader, ills))
    ]
    return [*actions, *_made(pool, group)]


def _unfit(pod: Pod, leader: Pod, ills: set[str]) -> str:
    """Return why a follower is of no use to its leader; empty: it is."""
    if ended(pod) in ills:
        return "it has ended for good"
    if leader.address and pod.leader_address != leader.address:
        return f"{leader.name} has another address now"
    return f"{leader.name} was started again, and it was not" if left_over(pod) in ills else ""


def _made(pool: EnginePool, group: Group) -> list[Action]:
    """A ready leader that lacks one has lost it, and is about to end; then it needs another."""
    leader = group.leader
    if leader.ready or leader.draining or not leader.address:
        return []
    owner = Owner("Pod", leader.name, leader.uid, "v1")
    places = [Place(leader.name, leader.address, rank) for rank in group.missing]
    return [
        Create(
            owned(follower(pool, group.template, place), owner),
            f"{leader.name} computes on {group.nodes} nodes",
        )
        for place in places
    ]


def _gone(pod: Pod, why: str) -> Delete:
    return Delete("Pod", pod.name, pod.uid, pod.version, f"{pod.name}: {why}")


def affordable(observed: Observed, pool: EnginePool) -> int:
    """Return how many replicas of a pool there are nodes for, as far as its halves tell.

    Replicas that lost their followers at the same time may hold, each for itself, the nodes that
    would make one of them whole: all halves but one are given up. Not in a rollout, which needs
    the workers that it has.
    """
    found = [group for group in groups_of(observed, pool) if group.lives]
    halves = [group for group in found if half(group.leader) in incurable(observed, group)]
    revisions = {group.leader.revision for group in found} | {pool.spec.rollout_hash}
    if len(halves) < 2 or len(revisions) > 1:
        return pool.spec.replicas
    return min(pool.spec.replicas, len(found) - len(halves) + 1)


def one_by_one(observed: Observed, pool: EnginePool, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return sizes by which replicas that span nodes come one after the other.

    Two of which each has found half of its nodes would keep each other from the rest for ever, so
    one more of a revision comes only when all others of it have all of theirs.
    """
    there = observed.workloads_of(pool.spec.pool)
    spans = {revision for revision, found in there.items() if spans_nodes(found)}
    spans |= {pool.spec.rollout_hash} if pool.spec.parallelism.nodes > 1 else set()
    found = [group for group in groups_of(observed, pool) if group.lives]
    capped = dict(sizes)
    for revision in spans & sizes.keys():
        has = there[revision]["spec"].get("replicas", 1) if revision in there else 0
        mine = [group for group in found if group.leader.revision == revision]
        complete = len(mine) >= has and all(group.placed for group in mine)
        capped[revision] = min(sizes[revision], has + complete)
    return capped
