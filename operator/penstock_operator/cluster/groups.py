"""Replicas that span nodes, as groups of a pod that serves and of others that compute for it. Pure.

All that counts, drains, routes and rolls out looks at the pod that serves, the leader; here its
followers become part of what is seen of it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from penstock_contract.api import EnginePool
from penstock_contract.labels import NODES, POOL, ROLLOUT_HASH
from penstock_operator.cluster.observed import Observed, Pod
from penstock_operator.manifests import Object, Place


@dataclass(frozen=True)
class Group:
    """A replica that spans nodes."""

    leader: Pod
    followers: Mapping[int, Pod]
    """By rank; one that is being deleted has its place until it is gone."""
    nodes: int
    template: Object
    """What its pods are made of."""

    @property
    def missing(self) -> list[int]:
        """Ranks that have no pod."""
        return [rank for rank in range(1, self.nodes) if rank not in self.followers]

    @property
    def lives(self) -> bool:
        """Whether its leader is there to stay."""
        return not self.leader.deleting and not self.leader.over

    @property
    def placed(self) -> bool:
        """Whether every pod of it has a node."""
        pods = [self.leader, *self.followers.values()]
        return not self.missing and all(pod.placed and not pod.over for pod in pods)


def groups(
    pods: Iterable[Pod], followers: Iterable[Pod], workloads: Mapping[str, Object]
) -> list[Group]:
    """Return the replicas that span nodes, those whose leader is being deleted included.

    Args:
        pods: those that serve.
        followers: all followers.
        workloads: Deployments by name, with their templates.
    """
    made_of: dict[tuple[str, str], Object] = {}
    for workload in workloads.values():
        labels = workload["metadata"].get("labels", {})
        if spans_nodes(workload) and "deletionTimestamp" not in workload["metadata"]:
            made_of[labels.get(POOL, ""), labels.get(ROLLOUT_HASH, "")] = workload
    by_leader: dict[str, dict[int, Pod]] = defaultdict(dict)
    for pod in followers:
        by_leader[pod.leader][pod.rank] = pod
    return [
        Group(
            leader=pod,
            followers=by_leader.get(pod.name, {}),
            nodes=int(found["metadata"]["labels"][NODES]),
            template=found["spec"]["template"],
        )
        for pod in pods
        if (found := made_of.get((pod.pool, pod.revision)))
    ]


def spans_nodes(workload: Object) -> bool:
    """Return whether each replica of a Deployment spans nodes."""
    nodes: str = workload["metadata"].get("labels", {}).get(NODES, "")
    return nodes.isdecimal() and int(nodes) > 1


def followers_wanted(workload: Object) -> int:
    """Return how many followers a Deployment's replicas have when they are whole."""
    if not spans_nodes(workload):
        return 0
    wanted: int = workload["spec"].get("replicas", 1)
    return wanted * (int(workload["metadata"]["labels"][NODES]) - 1)


def groups_of(observed: Observed, pool: EnginePool) -> list[Group]:
    """Return the replicas of a pool that span nodes."""
    pods = [pod for pod in observed.pods if pod.pool == pool.spec.pool]
    return groups(pods, observed.followers, observed.workloads)


def seen_as_one(pods: Iterable[Pod], found: Iterable[Group]) -> tuple[Pod, ...]:
    """Return the pods that serve, each with the troubles of its followers."""
    by_leader = {group.leader.uid: group for group in found}
    return tuple(_with_followers(pod, by_leader.get(pod.uid)) for pod in pods)


def _with_followers(pod: Pod, group: Group | None) -> Pod:
    if group is None:
        return pod
    others = group.followers.values()
    return replace(
        pod,
        placed=group.placed,
        fetching=any(one.fetching for one in (pod, *others)),
        unschedulable=pod.unschedulable or _told(others, "unschedulable"),
        waiting=pod.waiting or _told(others, "waiting"),
        beside=pod.beside or _told(others, "beside"),
        failing=(pod.failing if _is_to_blame(pod, group) else "")
        or _told((one for one in others if _is_to_blame(one, group)), "failing"),
    )


def _is_to_blame(pod: Pod, group: Group) -> bool:
    """Whether a pod would have ended with all others of its replica there, too.

    An engine that waits for others gives up after a while, and is started again.
    """
    if not pod.initialized:  # what came before its engine needs no others
        return True
    pods = [group.leader, *group.followers.values()]
    return group.placed and all(one.initialized and one.initialized <= pod.ended for one in pods)


def _told(followers: Iterable[Pod], trouble: str) -> str:
    """Return what the first follower that has a trouble says of it."""
    told = ((pod, getattr(pod, trouble)) for pod in followers if not pod.deleting)
    return next((f"{words} (follower {pod.name})" for pod, words in told if words), "")


def awaited(group: Group) -> str:
    """Return which follower a leader that is not ready waits for; empty: none."""
    if group.leader.ready or not group.leader.address:
        return ""
    if group.missing:
        first = Place(group.leader.name, group.leader.address, group.missing[0])
        return f"{group.leader.name} waits for {first.name} to be made"
    late = [pod for pod in group.followers.values() if pod.deleting or not pod.started]
    if not late:
        return ""
    does = "ends first" if late[0].deleting else "has not started"
    return f"{group.leader.name} waits for {late[0].name}, which {does}"
