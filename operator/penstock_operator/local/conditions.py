"""The status of an InferenceDeployment from what was observed: counts and metav1 conditions.

Pure. `Ready` is never true while no worker has passed its one-token probe, and a condition's
transition time changes with its status and with nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_contract.api import (
    Condition,
    ConditionStatus,
    InferenceDeployment,
    InferenceDeploymentStatus,
    PoolStatus,
)
from penstock_contract.api.inference import Revision


@dataclass(frozen=True)
class PoolSnapshot:
    """What was observed of one pool."""

    name: str
    desired: int
    revision: str
    """The one that is wanted."""
    ready: int
    """Of any revision."""
    ready_current: int
    """Of the wanted revision."""
    outdated: int
    """Processes of other revisions that have not begun to drain."""
    draining: int
    failure: str = ""
    """How the last process ended, while its successor is not ready."""


@dataclass(frozen=True)
class _Finding:
    type: str
    true: bool
    reason: str
    message: str = ""


def status_of(
    deployment: InferenceDeployment,
    pools: Sequence[PoolSnapshot],
    *,
    gateway_ready: bool,
    url: str,
    before: InferenceDeploymentStatus | None,
    now: str,
) -> InferenceDeploymentStatus:
    """Return the status; equal to `before` when nothing that it tells has changed.

    Args:
        deployment: the object.
        pools: in the order of its spec.
        gateway_ready: whether the endpoint answers.
        url: base URL of the endpoint.
        before: the status that was computed last.
        now: RFC 3339.
    """
    old = {condition.type: condition for condition in before.conditions} if before else {}
    updated = ",".join(dict.fromkeys(pool.revision for pool in pools))
    complete = all(_is_complete(pool) for pool in pools)
    return InferenceDeploymentStatus(
        observed_generation=deployment.metadata.generation,
        url=url,
        revision=Revision(
            current=updated if complete else (before.revision.current if before else ""),
            updated=updated,
        ),
        pools_summary=f"{sum(p.ready for p in pools)}/{sum(p.desired for p in pools)}",
        conditions=[
            _condition(finding, old.get(finding.type), deployment.metadata.generation, now)
            for finding in _findings(pools, gateway_ready)
        ],
        pools=[
            PoolStatus(name=p.name, desired=p.desired, ready=p.ready, draining=p.draining)
            for p in pools
        ],
    )


def _findings(pools: Sequence[PoolSnapshot], gateway_ready: bool) -> list[_Finding]:
    serving = _pools_ready(pools)
    router = (
        _Finding("RouterReady", True, "Serving")
        if gateway_ready
        else _Finding("RouterReady", False, "NotAnswering", "the gateway does not answer")
    )
    return [_ready(pools, serving, router), serving, router, _rollout(pools)]


def _ready(pools: Sequence[PoolSnapshot], serving: _Finding, router: _Finding) -> _Finding:
    """A pool that has lost some workers still serves; one without any does not."""
    if not router.true:
        return _Finding("Ready", False, "RouterNotReady", router.message)
    if not any(pool.ready for pool in pools) or any(p.desired and not p.ready for p in pools):
        message = serving.message or "no worker is wanted: every pool is scaled to 0"
        return _Finding("Ready", False, "NoWorkers", message)
    return _Finding("Ready", True, "Serving")


def _pools_ready(pools: Sequence[PoolSnapshot]) -> _Finding:
    short = [pool for pool in pools if pool.ready < pool.desired]
    if not short:
        return _Finding("PoolsReady", True, "AllReady")
    message = "; ".join(
        f"pool {p.name}: {p.ready} of {p.desired} workers ready"
        + (f", {p.failure}" if p.failure else "")
        for p in short
    )
    return _Finding("PoolsReady", False, "PodsNotReady", message)


def _rollout(pools: Sequence[PoolSnapshot]) -> _Finding:
    unfinished = [pool for pool in pools if not _is_complete(pool)]
    if not unfinished:
        return _Finding("RolloutComplete", True, "Complete")
    message = "; ".join(
        f"pool {p.name}: {p.ready_current} of {p.desired} run the new revision"
        + (f", {p.failure}" if p.failure else "")
        for p in unfinished
    )
    return _Finding("RolloutComplete", False, "Updating", message)


def _is_complete(pool: PoolSnapshot) -> bool:
    return pool.ready_current >= pool.desired and not pool.outdated


def _condition(finding: _Finding, old: Condition | None, generation: int, now: str) -> Condition:
    status = ConditionStatus.TRUE if finding.true else ConditionStatus.FALSE
    since = old.last_transition_time if old and old.status == status else now
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        observed_generation=generation,
        last_transition_time=since,
    )
