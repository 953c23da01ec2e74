"""The next step of one pool: its rollout, its workloads, the workers that drain. Pure."""

from dataclasses import dataclass, replace

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.pool import EnginePoolStatus
from penstock_contract.conditions import Reason
from penstock_contract.labels import DELETION_COST, DRAINING
from penstock_operator.cluster import ailments
from penstock_operator.cluster.actions import Action, Delete, Mark, RecordEvent
from penstock_operator.cluster.children import children
from penstock_operator.cluster.followers import (
    affordable,
    follower_actions,
    group_children,
    one_by_one,
)
from penstock_operator.cluster.groups import groups_of
from penstock_operator.cluster.observed import Observed
from penstock_operator.cluster.ownership import Owner
from penstock_operator.cluster.pool_report import pool_snapshot, pool_status
from penstock_operator.cluster.pool_workloads import created, resized, workload_obstacle
from penstock_operator.cluster.rollout_state import UNREADY_WITHIN, goes_first, rollout_state
from penstock_operator.manifests import Settings, Unsupported, pool_objects
from penstock_operator.rollout import Advance, advance
from penstock_operator.snapshot import Obstacle, PoolSnapshot

LEAVING_COST = -(2**30)
"""pod-deletion-cost of a worker that drains: its ReplicaSet takes it before all others."""

FRESH_IN = 0.5
"""Seconds to wait for the gateways' word before it is chosen who is the emptiest."""


@dataclass(frozen=True)
class PoolStep:
    """What to do about a pool, and what to tell of it."""

    actions: tuple[Action, ...]
    snapshot: PoolSnapshot
    status: EnginePoolStatus | None
    again_in: float | None = None
    drains: bool = False
    unsupported: Unsupported | None = None
    obstacle: Obstacle | None = None


def pool_step(
    observed: Observed,
    deployment: InferenceDeployment,
    pool: EnginePool,
    settings: Settings,
    *,
    leaving: bool = False,
) -> PoolStep:
    """Return the next step of a pool.

    Args:
        observed: what is seen.
        deployment: what the pool belongs to.
        pool: as stored; its owner and uid are known.
        settings: the installation's.
        leaving: the pool is not in the spec any more: its workers are drained, then it goes.
    """
    beside = pool_objects(pool, settings, deployment.spec.engine.type)
    planned = [*beside.values(), *group_children(observed, pool)]
    around, held_up = children(observed, planned, Owner.of(pool))
    step, workloads, unsupported = _advanced(observed, deployment, pool, settings, leaving=leaving)
    held = bool(step.drain) and not observed.gateways.fresh
    marks = _marks(observed, pool, replace(step, drain=()) if held else step)
    followers = follower_actions(observed, pool)
    gone = _gone(observed, pool, step) if leaving else []
    return PoolStep(
        actions=(*around, *workloads, *followers, *marks, *_events(pool, step, marks), *gone),
        snapshot=pool_snapshot(observed, pool, step, leaving=leaving),
        status=None
        if leaving
        else pool_status(observed, pool, step, unsupported=unsupported is not None),
        again_in=FRESH_IN if held else _again_in(observed, pool, step),
        drains=bool(step.drain) or any(p.draining for p in observed.pods_of(pool.spec.pool)),
        unsupported=unsupported,
        obstacle=held_up or workload_obstacle(observed, pool),
    )


def _advanced(
    observed: Observed,
    deployment: InferenceDeployment,
    pool: EnginePool,
    settings: Settings,
    *,
    leaving: bool,
) -> tuple[Advance, list[Action], Unsupported | None]:
    """Return the rollout's next step, what it asks of Deployments, and why not more of it.

    Where the new revision can't be made, the workers that there are stay as they are.
    """
    at = rollout_state(observed, deployment, pool, leaving=leaving)
    step = _gathering(observed, pool, advance(at))
    try:
        new = [] if leaving else created(observed, deployment, pool, step, settings)
    except Unsupported as error:
        step = _gathering(observed, pool, advance(replace(at, wanted=at.stable or at.wanted)))
        return step, resized(observed, pool, step), error
    return step, [*resized(observed, pool, step), *new], None


def _gathering(observed: Observed, pool: EnginePool, step: Advance) -> Advance:
    """Return a step in which replicas that span nodes find their places one after the other."""
    return replace(step, sizes=one_by_one(observed, pool, step.sizes))


def _gone(observed: Observed, pool: EnginePool, step: Advance) -> list[Action]:
    """Return the end of a pool that leaves, once its last worker has."""
    if observed.pods_of(pool.spec.pool) or any(step.sizes.values()):
        return []
    meta = pool.metadata
    why = "the pool is not in the spec any more, and its workers are gone"
    return [Delete("EnginePool", meta.name, meta.uid or "", meta.resource_version or "", why)]


def _marks(observed: Observed, pool: EnginePool, step: Advance) -> list[Action]:
    """Return the marks on pods that drain, or do not any more."""
    actions: list[Action] = []
    halves = affordable(observed, pool) < pool.spec.replicas
    fewer = "another replica needs its nodes" if halves else "fewer workers are wanted"
    for found in observed.pods_of(pool.spec.pool):
        if found.uid in step.drain:
            why = f"{found.name} drains: {step.reason or fewer}"
            marks: dict[str, str | None] = {DRAINING: "true", DELETION_COST: str(LEAVING_COST)}
        elif found.uid in step.undrain:
            why = f"{found.name} stays after all"
            marks = {DRAINING: None, DELETION_COST: None}
        else:
            continue
        patch = {"metadata": {"resourceVersion": found.version, "annotations": marks}}
        draining = found.uid in step.drain
        actions.append(Mark(found.name, found.address, draining, patch, why))
    return actions


def _events(pool: EnginePool, step: Advance, marks: list[Action]) -> list[Action]:
    """Return what people should hear of, once."""
    events: list[Action] = []
    name = pool.spec.pool
    before = pool.status.revision.rejected if pool.status else ""
    if step.rejected and step.rejected != before:
        events.append(RecordEvent(Reason.ROLLED_BACK, f"pool {name}: {step.reason}", warning=True))
    drained = [m.reason for m in marks if isinstance(m, Mark) and m.draining]
    if drained:
        events.append(RecordEvent("Draining", f"pool {name}: {'; '.join(drained)}"[:1000]))
    return events


def _again_in(observed: Observed, pool: EnginePool, step: Advance) -> float | None:
    unready = [
        p for p in observed.pods_of(pool.spec.pool) if p.draining and not goes_first(observed, p)
    ]
    waits = [
        observed.since.get(p.uid, observed.now) + UNREADY_WITHIN - observed.now for p in unready
    ]
    waits += [] if step.again_in is None else [step.again_in]
    ill = (ailments.again_in(observed, group) for group in groups_of(observed, pool))
    waits += [wait for wait in ill if wait is not None]
    return min(waits, default=None)
