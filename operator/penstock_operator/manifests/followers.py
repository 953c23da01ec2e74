"""The pods beside the one that serves, where a replica spans nodes, and what stands around them.

A follower is made of the template that its leader was made of, not of the spec: an older revision
keeps its image and flags for as long as it runs, whatever the spec says by then.
"""

from dataclasses import dataclass

from penstock_contract import group
from penstock_contract.api import EnginePool
from penstock_contract.labels import (
    ADAPTERS,
    COMPONENT,
    DEPLOYMENT,
    FOLLOWER_OF,
    LEADER,
    LEADER_ADDRESS,
    NODE_RANK,
    POOL,
    ROLE,
    SERVED_MODEL,
)
from penstock_contract.worker_pod import CONTAINER
from penstock_operator.manifests import engine, vllm
from penstock_operator.manifests.objects import Object, pool_object, pool_selector

_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_SERVING = (ADAPTERS, DEPLOYMENT, POOL, ROLE, SERVED_MODEL)
"""Labels and annotations of pods that serve."""


@dataclass(frozen=True)
class Place:
    """Where in which replica a follower computes."""

    leader: str
    """Name of the pod that serves."""
    address: str
    """Its IP."""
    rank: int
    """From 1."""

    @property
    def name(self) -> str:
        """Name of the follower's pod: there is never a second one for the place."""
        return f"{self.leader}-{self.rank}"


def follower(pool: EnginePool, template: Object, place: Place) -> Object:
    """Return a follower's pod.

    Args:
        pool: that the replica belongs to.
        template: of the leader's Deployment, as stored.
        place: of the follower.
    """
    spec = template["spec"]
    metadata = template["metadata"]
    labels = {k: v for k, v in metadata["labels"].items() if k not in _SERVING}
    labels |= {
        COMPONENT: "follower",
        LEADER: place.leader,
        FOLLOWER_OF: pool.metadata.name,
        NODE_RANK: str(place.rank),
    }
    kept = metadata.get("annotations") or {}
    annotations = {k: v for k, v in kept.items() if k not in _SERVING}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": place.name,
            "namespace": pool.metadata.namespace,
            "labels": labels,
            "annotations": annotations | {LEADER_ADDRESS: place.address},
        },
        "spec": {
            **spec,
            "containers": [
                _computing(one, place) if one["name"] == CONTAINER else one
                for one in spec["containers"]
            ],
        },
    }


def _computing(container: Object, place: Place) -> Object:
    """Return a leader's container as a follower has it, which serves nobody."""
    here = {engine.LEADER_IP: place.address, engine.NODE_RANK: str(place.rank)}
    kept = {k: v for k, v in container.items() if k not in (*_PROBES, "ports")}
    env = [
        {"name": one["name"], "value": here[one["name"]]} if one["name"] in here else one
        for one in container["env"]
    ]
    if _is_vllm(container):
        return {**kept, "args": [*container["args"], "--headless"], "env": env}
    probe = {"httpGet": {"path": group.READY_PATH, "port": engine.PORT}, "periodSeconds": 2}
    return {**kept, "env": env, "readinessProbe": probe}


def rejoins(template: Object) -> bool:
    """Return whether followers wait for another process of their leader; vLLM's may never know."""
    containers = template["spec"]["containers"]
    return not any(_is_vllm(one) for one in containers if one["name"] == CONTAINER)


def _is_vllm(container: Object) -> bool:
    return bool(container["command"] == list(vllm.COMMAND))


def group_objects(pool: EnginePool, wanted: int) -> list[Object]:
    """Return what lets the pods of replicas that span nodes meet, and keeps them from eviction.

    Names have a dot, as no pool's has: nothing of another pool is called so.

    Args:
        pool: whose replicas they are.
        wanted: followers that the pool is to have now, of all revisions.
    """
    leaders = {"podSelector": {"matchLabels": pool_selector(pool)}}
    followers = {"podSelector": {"matchLabels": {FOLLOWER_OF: pool.metadata.name}}}
    return [
        _policy(pool, "leaders", leaders, [followers]),
        _policy(pool, "followers", followers, [leaders, followers]),
        _budget(pool, wanted),
    ]


def group_name(pool: EnginePool, who: str) -> str:
    """Return the name of an object around a pool's `leaders` or `followers`."""
    return f"{pool.metadata.name}.{who}"


def _named(pool: EnginePool, who: str, version: str, kind: str, spec: Object) -> Object:
    found = pool_object(version, kind, pool, spec=spec)
    return {**found, "metadata": {**found["metadata"], "name": group_name(pool, who)}}


def _policy(pool: EnginePool, who: str, whom: Object, peers: list[Object]) -> Object:
    """On every port, as ranks agree on theirs when they meet."""
    spec = {**whom, "policyTypes": ["Ingress"], "ingress": [{"from": peers}]}
    return _named(pool, who, "networking.k8s.io/v1", "NetworkPolicy", spec)


def _budget(pool: EnginePool, wanted: int) -> Object:
    """A budget takes plain numbers only where pods belong to what cannot be scaled, as a pod."""
    selector = {"matchLabels": {FOLLOWER_OF: pool.metadata.name}}
    spec = {"minAvailable": max(0, wanted - 1), "selector": selector}
    return _named(pool, "followers", "policy/v1", "PodDisruptionBudget", spec)
