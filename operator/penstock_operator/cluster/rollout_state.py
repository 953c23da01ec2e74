"""A pool as its rollout sees it, gathered from pods, workloads and gateways. Pure."""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.base import seconds
from penstock_contract.api.pool import EnginePoolStatus
from penstock_operator.cluster.world import Pod, World
from penstock_operator.rollout import RolloutState, Worker

COSTS_COUNT = "policy/v1/PodDisruptionBudget"
"""Came with Kubernetes 1.21, as pod-deletion-cost did."""
UNREADY_WITHIN = 30.0
"""Seconds after which a worker that drains should be seen not to be ready."""


def rollout_state(
    world: World, deployment: InferenceDeployment, pool: EnginePool, *, leaving: bool
) -> RolloutState:
    """Return a pool's workers and sizes as its rollout looks at them."""
    spec, before = deployment.spec.rollout, pool.status or EnginePoolStatus()
    workloads = world.workloads_of(pool.spec.pool)
    pods = world.pods_of(pool.spec.pool)
    wanted = pool.spec.rollout_hash
    current = workloads.get(wanted)
    canary = before.canary if before.canary and before.canary.revision == wanted else None
    return RolloutState(
        replicas=0 if leaving else pool.spec.replicas,
        wanted=wanted,
        stable=before.revision.current,
        rejected=before.revision.rejected,
        sizes={revision: w["spec"].get("replicas", 1) for revision, w in workloads.items()},
        workers=tuple(_worker(world, found) for found in pods),
        max_surge=spec.max_surge,
        max_unavailable=spec.max_unavailable,
        canary=None if leaving else spec.canary,
        pause=seconds(spec.canary.pause) if spec.canary else 0.0,
        canary_since=world.since.get(canary.revision, world.now) if canary else None,
        counts=_counts(world, pods),
        updating_since=world.since.get(current["metadata"]["uid"]) if current else None,
        now=world.now,
    )


def _worker(world: World, found: Pod) -> Worker:
    load = world.gateways.loads.get(found.uid)
    return Worker(
        id=found.uid,
        revision=found.revision,
        ready=found.ready,
        draining=found.draining,
        confirmed=found.uid in world.gateways.confirmed and goes_first(world, found),
        outstanding=float(load.outstanding_tokens + load.in_flight) if load else 0.0,
        failing=found.failing,
        unschedulable=bool(found.unschedulable),
    )


def goes_first(world: World, found: Pod) -> bool:
    """Return whether its ReplicaSet would take this pod before all others.

    Before pod-deletion-cost, only that it is not ready tells it so; a worker that drains is not,
    unless it could not be told.
    """
    if COSTS_COUNT in world.served or not found.ready:
        return True
    return world.now - world.since.get(found.uid, world.now) >= UNREADY_WITHIN


def _counts(world: World, pods: list[Pod]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for found in pods:
        if load := world.gateways.loads.get(found.uid):
            requests, failures = counts.get(found.revision, (0, 0))
            counts[found.revision] = (requests + load.requests, failures + load.failures)
    return counts
