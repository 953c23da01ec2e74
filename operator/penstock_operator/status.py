"""Status of an InferenceDeployment, computed from a snapshot of what serves it.

Pure: observations, the status before and the time go in. Nothing changes in the result unless
something changed in the world, so that a quiet deployment is never written. `Ready` needs a worker
that has generated a token; a process that merely runs is not enough.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from penstock_contract.adapters import AdapterState
from penstock_contract.api import (
    Condition,
    ConditionStatus,
    InferenceDeployment,
    InferenceDeploymentStatus,
    PoolStatus,
    Role,
)
from penstock_contract.api.revision import Revision
from penstock_contract.api.status import AdapterStatus
from penstock_contract.conditions import ConditionType, Reason
from penstock_operator.rollout import Phase
from penstock_operator.snapshot import PoolSnapshot, ScalingReport, Snapshot

MAX_MESSAGE = 1024
"""Longest condition message; words of schedulers and containers can be endless."""


@dataclass(frozen=True)
class Finding:
    """One aspect of the state, before it becomes a condition with a time."""

    status: bool
    reason: Reason
    message: str = ""


def status(
    deployment: InferenceDeployment,
    snapshot: Snapshot,
    before: InferenceDeploymentStatus | None,
    now: str,
) -> InferenceDeploymentStatus:
    """Return the status to report.

    Args:
        deployment: the spec that the snapshot was taken for.
        snapshot: what was seen.
        before: the status that was reported last.
        now: RFC 3339; the time of transitions that happen with this status.
    """
    before = before or InferenceDeploymentStatus()
    updated = revision(snapshot.pools)
    findings = _findings(deployment, snapshot, rolled_out=before.revision.current == updated)
    findings |= _still_scaling(deployment, snapshot, before.conditions)
    complete = findings[ConditionType.ROLLOUT_COMPLETE].status
    ready = sum(pool.ready for pool in snapshot.pools)
    desired = sum(pool.desired for pool in snapshot.pools)
    rolled_back = any(pool.phase in _ROLLED_BACK for pool in snapshot.pools)
    return InferenceDeploymentStatus(
        observed_generation=deployment.metadata.generation,
        url=snapshot.url,
        revision=Revision(
            current=updated if complete else before.revision.current,
            updated=updated,
            rejected=updated if rolled_back else "",
        ),
        canary=snapshot.canary,
        pools_summary=f"{ready}/{desired}",
        conditions=[
            _condition(kind, finding, before.conditions, deployment.metadata.generation, now)
            for kind, finding in findings.items()
        ],
        adapters=list(snapshot.adapters),
        pools=[_pool_status(pool, before.pools, snapshot.scaling) for pool in snapshot.pools],
    )


def invalid_status(
    generation: int, problem: str, before: InferenceDeploymentStatus | None, now: str
) -> InferenceDeploymentStatus:
    """Return the status of a spec that cannot be used: what ran before goes on, and is told so."""
    before = before or InferenceDeploymentStatus()
    finding = Finding(False, Reason.INVALID_SPEC, problem)
    serving = any(
        c.type == ConditionType.READY and c.status is ConditionStatus.TRUE
        for c in before.conditions
    )
    told = [ConditionType.POOLS_READY, ConditionType.ROLLOUT_COMPLETE]
    told += [] if serving else [ConditionType.READY]
    kept = [c for c in before.conditions if c.type not in told]
    conditions = [_condition(kind, finding, before.conditions, generation, now) for kind in told]
    return before.model_copy(
        update={"observed_generation": generation, "conditions": [*kept, *conditions]}
    )


def revision(pools: Iterable[PoolSnapshot]) -> str:
    """Return the revision of a whole deployment: that of all its pools."""
    hashes = sorted((pool.name, pool.revision) for pool in pools)
    return hashlib.sha256(repr(hashes).encode()).hexdigest()[:16]


def _findings(
    deployment: InferenceDeployment, snapshot: Snapshot, *, rolled_out: bool
) -> dict[ConditionType, Finding]:
    model, router = _model(snapshot), _router(snapshot)
    found = {
        ConditionType.READY: _ready(deployment, snapshot, model, router),
        ConditionType.MODEL_RESOLVED: model,
        ConditionType.POOLS_READY: _pools(snapshot),
        ConditionType.ROUTER_READY: router,
        ConditionType.ROLLOUT_COMPLETE: _rollout(snapshot, rolled_out=rolled_out),
    }
    if snapshot.adapters:
        found[ConditionType.ADAPTERS_READY] = _adapters(snapshot.adapters)
    if scaling := snapshot.scaling:
        well = scaling.reason is Reason.SCALING
        found[ConditionType.SCALING_ACTIVE] = Finding(well, scaling.reason, scaling.message)
    return found


def _still_scaling(
    deployment: InferenceDeployment, snapshot: Snapshot, before: Sequence[Condition]
) -> dict[ConditionType, Finding]:
    """What the autoscaler said last holds until it says more: it may have started just now."""
    kind = ConditionType.SCALING_ACTIVE
    told = next((c for c in before if c.type == kind), None)
    if told is None or snapshot.scaling or not deployment.is_autoscaled:
        return {}
    if told.reason not in list(Reason):  # of a newer version
        return {}
    well = told.status is ConditionStatus.TRUE
    return {kind: Finding(well, Reason(told.reason), told.message)}


def _model(snapshot: Snapshot) -> Finding:
    gap = snapshot.unsupported
    if gap is not None and gap.field.startswith("spec.model"):
        return Finding(False, Reason.UNSUPPORTED_SOURCE, str(gap))
    if snapshot.model_missing:
        return Finding(False, Reason.MODEL_NOT_FOUND, snapshot.model_missing)
    return Finding(True, Reason.RESOLVED)


def _adapters(found: Sequence[AdapterStatus]) -> Finding:
    """What has failed says why; of what is on its way, `status.adapters` says more."""
    failed = [one for one in found if one.state is AdapterState.FAILED]
    if failed:
        told = "; ".join(f"{one.name}: {one.message}" for one in failed)
        return Finding(False, Reason.ADAPTER_FAILED, told)
    loading = [one.name for one in found if one.state is AdapterState.LOADING]
    if loading:
        return Finding(False, Reason.ADAPTERS_LOADING, f"on their way: {', '.join(loading)}")
    return Finding(True, Reason.ADAPTERS_LOADED)


def _router(snapshot: Snapshot) -> Finding:
    if not snapshot.router_ready:
        return Finding(False, Reason.ROUTER_NOT_READY, "no gateway answers yet")
    if snapshot.nameless:
        return Finding(False, Reason.NAME_TAKEN, snapshot.names_taken)
    return Finding(True, Reason.ROUTER_SERVING, snapshot.names_taken)


def _ready(
    deployment: InferenceDeployment, snapshot: Snapshot, model: Finding, router: Finding
) -> Finding:
    """Workers of an older revision count: they serve, also when the new spec cannot be built."""
    answering = {p.name for p in deployment.spec.pools if p.role is not Role.PREFILL}
    pools = [pool for pool in snapshot.pools if pool.name in answering]
    if any(pool.ready for pool in pools):
        return Finding(True, Reason.SERVING) if router.status else router
    if not model.status:
        return Finding(False, Reason.MODEL_NOT_RESOLVED, model.message)
    if snapshot.unsupported is not None:
        return Finding(False, Reason.UNSUPPORTED_SPEC, str(snapshot.unsupported))
    if pools and not any(pool.desired for pool in pools):
        return Finding(False, Reason.SCALED_TO_ZERO, "no worker is wanted")
    return Finding(False, Reason.NO_READY_WORKERS, _pools(snapshot).message)


def _pools(snapshot: Snapshot) -> Finding:
    """The gravest trouble of any pool is the reason; the message names every pool in trouble."""
    if snapshot.unsupported is not None:
        return Finding(False, Reason.UNSUPPORTED_SPEC, str(snapshot.unsupported))
    if snapshot.obstacle is not None:
        return Finding(False, snapshot.obstacle.reason, snapshot.obstacle.message)
    troubles = [(pool, trouble) for pool in snapshot.pools if (trouble := _trouble(pool))]
    if not troubles:
        told = [f"{pool.name}: {pool.beside}" for pool in snapshot.pools if pool.beside]
        return Finding(True, Reason.AS_DESIRED, "; ".join(told))
    reasons = {trouble.reason for _, trouble in troubles}
    gravest = next(reason for reason in _BY_GRAVITY if reason in reasons)
    return Finding(False, gravest, "; ".join(f"{p.name}: {t.message}" for p, t in troubles))


_ROLLED_BACK = (Phase.ROLLING_BACK, Phase.ROLLED_BACK)

_BY_GRAVITY = (
    Reason.INSUFFICIENT_CAPACITY,
    Reason.PODS_FAILING,
    Reason.PODS_NOT_READY,
    Reason.UPDATING,
)


def _trouble(pool: PoolSnapshot) -> Finding | None:
    count = f"{pool.ready} of {pool.desired} workers ready"
    unfinished = pool.ready < pool.desired or pool.outdated > 0
    if unfinished and pool.unschedulable:
        return Finding(False, Reason.INSUFFICIENT_CAPACITY, f"{count}: {pool.unschedulable}")
    if unfinished and pool.failure:
        return Finding(False, Reason.PODS_FAILING, f"{count}: {pool.failure}")
    if pool.outdated:
        message = f"{count}, {pool.outdated} of an older revision to be replaced"
        return Finding(False, Reason.UPDATING, message)
    if pool.ready < pool.desired:
        why = pool.awaited or pool.beside
        return Finding(False, Reason.PODS_NOT_READY, f"{count}: {why}" if why else count)
    return None


def _rollout(snapshot: Snapshot, *, rolled_out: bool) -> Finding:
    """A rollout that was complete stays so when a worker dies or the pool is scaled."""
    if snapshot.unsupported is not None:
        return Finding(False, Reason.UNSUPPORTED_SPEC, str(snapshot.unsupported))
    for phases, reason in ((_ROLLED_BACK, Reason.ROLLED_BACK), ((Phase.CANARY,), Reason.CANARY)):
        told = [f"{p.name}: {p.rollout}" for p in snapshot.pools if p.phase in phases]
        if told:
            return Finding(False, reason, "; ".join(told))
    pools = _pools(snapshot)
    if pools.status or (rolled_out and not any(pool.outdated for pool in snapshot.pools)):
        return Finding(True, Reason.COMPLETE)
    if pools.reason is Reason.INVALID_SPEC:
        return pools
    stuck = pools.reason in (Reason.INSUFFICIENT_CAPACITY, Reason.PODS_FAILING)
    return Finding(False, Reason.STALLED if stuck else Reason.IN_PROGRESS, pools.message)


def _condition(
    kind: ConditionType, finding: Finding, before: Sequence[Condition], generation: int, now: str
) -> Condition:
    """`lastTransitionTime` moves with `status` only, as in all of Kubernetes."""
    found = ConditionStatus.TRUE if finding.status else ConditionStatus.FALSE
    old = next((c for c in before if c.type == kind), None)
    taken_back = finding.reason is Reason.ROLLED_BACK and old and old.reason == finding.reason
    if old and taken_back and old.observed_generation == generation:
        finding = replace(finding, message=old.message)  # the cause went with the pods that told it
    return Condition(
        type=kind,
        status=found,
        reason=finding.reason,
        message=finding.message[:MAX_MESSAGE],
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and old.status is found else now,
    )


def _pool_status(
    pool: PoolSnapshot, before: Sequence[PoolStatus], scaling: ScalingReport | None
) -> PoolStatus:
    last_scale = next((p.last_scale for p in before if p.name == pool.name), None)
    if scaling and pool.name in scaling.last:
        last_scale = scaling.last[pool.name]
    return PoolStatus(
        name=pool.name,
        desired=pool.desired,
        ready=pool.ready,
        draining=pool.draining,
        last_scale=last_scale,
    )
