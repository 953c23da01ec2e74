"""What is told of one pool: to its InferenceDeployment, and in its own status. Pure."""

from penstock_contract.api import EnginePool
from penstock_contract.api.pool import EnginePoolStatus
from penstock_contract.api.revision import CanaryStatus, Revision
from penstock_contract.labels import DEPLOYMENT, POOL
from penstock_operator.cluster.groups import awaited, groups_of
from penstock_operator.cluster.observed import Observed
from penstock_operator.rollout import Advance, Phase
from penstock_operator.snapshot import PoolSnapshot

ACCOUNT_MISSING = "error looking up service account"
"""What admission says of a pod whose ServiceAccount is not there."""


def pool_snapshot(
    observed: Observed, pool: EnginePool, step: Advance, *, leaving: bool
) -> PoolSnapshot:
    """Return what is seen of the pool's workers."""
    pods = observed.pods_of(pool.spec.pool)
    staying = [pod for pod in pods if not pod.draining]
    return PoolSnapshot(
        name=pool.spec.pool,
        desired=0 if leaving else pool.spec.replicas,
        revision=pool.spec.rollout_hash,
        ready=sum(pod.ready for pod in staying),
        outdated=sum(pod.revision != pool.spec.rollout_hash for pod in pods),
        draining=len(pods) - len(staying),
        unschedulable=next((pod.unschedulable for pod in staying if pod.unschedulable), ""),
        failure=next((w for pod in staying if (w := pod.failing or pod.waiting)), "")
        or _unmade(observed, pool),
        beside=next((pod.beside for pod in staying if pod.beside), ""),
        awaited=next(filter(None, map(awaited, groups_of(observed, pool))), ""),
        phase=step.phase,
        rollout=step.reason,
    )


def _unmade(observed: Observed, pool: EnginePool) -> str:
    """Return why pods cannot even be made: a quota, an admission check, an unknown class."""
    conditions = (
        condition
        for found in observed.workloads_of(pool.spec.pool).values()
        for condition in found.get("status", {}).get("conditions", [])
    )
    failures = (c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True")
    words = next((str(c.get("message", "")) for c in failures), "")
    if ACCOUNT_MISSING in words:
        words += ": create it in this namespace, or correct spec.model.serviceAccountName"
    return words


def pool_status(
    observed: Observed, pool: EnginePool, step: Advance, *, unsupported: bool
) -> EnginePoolStatus:
    """Return the status of the pool's EnginePool.

    Args:
        observed: what is seen.
        pool: as stored.
        step: of its rollout.
        unsupported: the wanted revision can't be made.
    """
    before = pool.status or EnginePoolStatus()
    pods = observed.pods_of(pool.spec.pool)
    wanted = pool.spec.rollout_hash
    ready = [pod for pod in pods if pod.ready and not pod.draining]
    complete = (
        not unsupported
        and step.phase is Phase.STABLE
        and wanted in observed.workloads_of(pool.spec.pool)
        and sum(pod.revision == wanted for pod in ready) >= pool.spec.replicas
    )
    return EnginePoolStatus(
        observed_generation=pool.metadata.generation,
        replicas=len(pods),
        ready_replicas=len(ready),
        draining_replicas=sum(pod.draining for pod in pods),
        revision=Revision(
            current=wanted if complete else before.revision.current,
            updated=wanted,
            rejected=step.rejected,
        ),
        canary=_canary(observed, pool, step),
        selector=f"{DEPLOYMENT}={pool.spec.deployment},{POOL}={pool.spec.pool}",
    )


def _canary(observed: Observed, pool: EnginePool, step: Advance) -> CanaryStatus | None:
    if step.canary_since is None or step.phase is Phase.STABLE:
        return None
    before = pool.status.canary if pool.status else None
    wanted = pool.spec.rollout_hash
    since = before.since if before and before.revision == wanted else observed.time
    return CanaryStatus(revision=wanted, weight=step.canary_weight, since=since)
