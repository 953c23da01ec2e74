"""A pool as its rollout sees it, gathered from pods, workloads and gateways. Pure."""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.base import seconds
from penstock_contract.api.pool import EnginePoolStatus
from penstock_operator.cluster.followers import affordable
from penstock_operator.cluster.observed import Observed, Pod
from penstock_operator.rollout import RolloutState, Worker

COSTS_COUNT = "policy/v1/PodDisruptionBudget"
"""Came with Kubernetes 1.21, as pod-deletion-cost did."""
UNREADY_WITHIN = 30.0
"""Seconds after which a worker that drains should be seen not to be ready."""


def rollout_state(
    observed: Observed, deployment: InferenceDeployment, pool: EnginePool, *, leaving: bool
) -> RolloutState:
    """Return a pool's workers and sizes as its rollout looks at them."""
    spec, before = deployment.spec.rollout, pool.status or EnginePoolStatus()
    workloads = observed.workloads_of(pool.spec.pool)
    pods = observed.pods_of(pool.spec.pool)
    wanted = pool.spec.rollout_hash
    canary = before.canary if before.canary and before.canary.revision == wanted else None
    return RolloutState(
        replicas=0 if leaving else affordable(observed, pool),
        wanted=wanted,
        stable=before.revision.current,
        rejected=before.revision.rejected,
        sizes={revision: w["spec"].get("replicas", 1) for revision, w in workloads.items()},
        workers=tuple(_worker(observed, found) for found in pods),
        max_surge=spec.max_surge,
        max_unavailable=spec.max_unavailable,
        canary=None if leaving else spec.canary,
        pause=seconds(spec.canary.pause) if spec.canary else 0.0,
        canary_since=observed.since.get(canary.revision, observed.now) if canary else None,
        counts=_counts(observed, pods),
        now=observed.now,
    )


def _worker(observed: Observed, found: Pod) -> Worker:
    load = observed.gateways.loads.get(found.uid)
    return Worker(
        id=found.uid,
        revision=found.revision,
        ready=found.ready,
        draining=found.draining,
        confirmed=found.uid in observed.gateways.confirmed and goes_first(observed, found),
        outstanding=float(load.outstanding_tokens + load.in_flight) if load else 0.0,
        failing=found.failing,
        loading=_loading(observed, found),
    )


def load_of(found: Pod) -> str:
    """Name the time for which a worker has been loading; empty: it is not."""
    loads = found.placed and not (found.ready or found.fetching or found.deleting)
    return f"{found.uid} loads" if loads else ""


def _loading(observed: Observed, found: Pod) -> float | None:
    load = load_of(found)
    return observed.now - observed.since.get(load, observed.now) if load else None


def goes_first(observed: Observed, found: Pod) -> bool:
    """Return whether its ReplicaSet would take this pod before all others.

    Pods that are not ready go before all that are, whatever they cost to delete. A worker that
    drains is not ready, unless it could not be told; one that serves may seem not to be, by what
    stands beside it. Before pod-deletion-cost there was nothing else to go by.
    """
    stay = (pod for pod in observed.pods_of(found.pool) if not pod.draining)
    others = (pod for pod in stay if pod.revision == found.revision)
    before = any(pod.ready and not pod.whole for pod in others)
    if (COSTS_COUNT in observed.served and not before) or not found.whole:
        return True
    return observed.now - observed.since.get(found.uid, observed.now) >= UNREADY_WITHIN


def _counts(observed: Observed, pods: list[Pod]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for found in pods:
        if load := observed.gateways.loads.get(found.uid):
            requests, failures = counts.get(found.revision, (0, 0))
            counts[found.revision] = (requests + load.requests, failures + load.failures)
    return counts
