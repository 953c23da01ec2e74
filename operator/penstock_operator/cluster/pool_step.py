"""The next step of one pool: its children, its workloads, its rollout, its status. Pure."""

from dataclasses import dataclass, replace

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.pool import EnginePoolStatus
from penstock_contract.api.revision import CanaryStatus, Revision
from penstock_contract.conditions import Reason
from penstock_contract.labels import DELETION_COST, DEPLOYMENT, DRAINING, POOL
from penstock_operator.cluster.actions import Action, Create, Delete, Mark, Merge, RecordEvent
from penstock_operator.cluster.children import children
from penstock_operator.cluster.compare import missing
from penstock_operator.cluster.ownership import Owner, obstacle, owned
from penstock_operator.cluster.rollout_state import UNREADY_WITHIN, goes_first, rollout_state
from penstock_operator.cluster.world import World
from penstock_operator.manifests import (
    Object,
    Settings,
    Unsupported,
    pool_objects,
    workload,
    workload_name,
)
from penstock_operator.rollout import Advance, Phase, advance
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
    world: World,
    deployment: InferenceDeployment,
    pool: EnginePool,
    settings: Settings,
    *,
    leaving: bool = False,
) -> PoolStep:
    """Return the next step of a pool.

    Args:
        world: what is seen.
        deployment: what the pool belongs to.
        pool: as stored; its owner and uid are known.
        settings: the installation's.
        leaving: the pool is not in the spec any more: its workers are drained, then it goes.
    """
    owner = Owner.of(pool)
    around, held_up = children(world, pool_objects(pool, settings).values(), owner)
    at = rollout_state(world, deployment, pool, leaving=leaving)
    step = advance(at)
    unsupported: Unsupported | None = None
    try:
        workloads = _resized(world, pool, step)
        if not leaving:
            workloads += _created(world, deployment, pool, step, settings)
    except Unsupported as error:
        # The workers that there are stay as they are; the new revision can't be made.
        unsupported = error
        step = advance(replace(at, wanted=at.stable or at.wanted))
        workloads = _resized(world, pool, step)
    held = bool(step.drain) and not world.gateways.fresh
    marks = _marks(world, pool, replace(step, drain=()) if held else step)
    gone: list[Action] = []
    if leaving and not world.pods_of(pool.spec.pool) and not any(step.sizes.values()):
        meta = pool.metadata
        why = "the pool is not in the spec any more, and its workers are gone"
        gone = [Delete("EnginePool", meta.name, meta.uid or "", meta.resource_version or "", why)]
    events = _events(pool, step, marks)
    return PoolStep(
        actions=(*around, *workloads, *marks, *events, *gone),
        snapshot=_snapshot(world, pool, step, leaving=leaving),
        status=None if leaving else _status(world, pool, step, unsupported),
        again_in=FRESH_IN if held else _again_in(world, pool, step),
        drains=bool(step.drain) or any(p.draining for p in world.pods_of(pool.spec.pool)),
        unsupported=unsupported,
        obstacle=held_up or _obstacle(world, pool),
    )


def _created(
    world: World,
    deployment: InferenceDeployment,
    pool: EnginePool,
    step: Advance,
    settings: Settings,
) -> list[Action]:
    """Return the creation of the wanted revision's Deployment, if it is not there.

    One that is there keeps its template, whatever this version of the operator would render.

    Raises:
        Unsupported: the spec asks for what this version does not build.
    """
    wanted = pool.spec.rollout_hash
    there = wanted in world.workloads_of(pool.spec.pool)
    if there or wanted not in step.sizes or step.rejected == wanted:
        return []
    if workload_name(pool.metadata.name, wanted) in world.workloads:
        return []  # it is being deleted, and has to go first
    body = workload(deployment, pool, settings, step.sizes[wanted])
    body = owned(body, Owner.of(pool))
    return [Create(body, f"revision {wanted} needs {step.sizes[wanted]} workers")]


def _resized(world: World, pool: EnginePool, step: Advance) -> list[Action]:
    """Return what brings Deployments that exist to their size, and removes those with no use."""
    actions: list[Action] = []
    busy = {pod.revision for pod in world.pods if pod.pool == pool.spec.pool}
    keep = {pool.spec.rollout_hash, step.rejected, _stable(pool)}
    reference = owned({"metadata": {}}, Owner.of(pool))
    for revision, found in world.workloads_of(pool.spec.pool).items():
        meta, size = found["metadata"], step.sizes.get(revision, 0)
        has = found["spec"].get("replicas", 1)
        name = meta["name"]
        if obstacle(found, Owner.of(pool)):
            continue
        if size == 0 and has == 0 and revision not in busy and revision not in keep:
            why = f"revision {revision} was replaced"
            actions.append(Delete("Deployment", name, meta["uid"], meta["resourceVersion"], why))
            continue
        patch: Object = {"spec": {"replicas": size}} if size != has else {}
        changes: Object = {}
        if missing(found, reference):
            changes.update(reference["metadata"])
        if changes or patch:
            changes["resourceVersion"] = meta["resourceVersion"]
            why = f"{name}: {has} to {size}" + (f": {step.reason}" if step.reason else "")
            actions.append(Merge("Deployment", name, {"metadata": changes, **patch}, why))
    return actions


def _obstacle(world: World, pool: EnginePool) -> Obstacle | None:
    found = (obstacle(w, Owner.of(pool)) for w in world.workloads_of(pool.spec.pool).values())
    return next(filter(None, found), None)


def _stable(pool: EnginePool) -> str:
    return pool.status.revision.current if pool.status else ""


def _marks(world: World, pool: EnginePool, step: Advance) -> list[Action]:
    """Return the marks on pods that drain, or do not any more."""
    actions: list[Action] = []
    for found in world.pods_of(pool.spec.pool):
        if found.uid in step.drain:
            why = f"{found.name} drains: {step.reason or 'fewer workers are wanted'}"
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


def _again_in(world: World, pool: EnginePool, step: Advance) -> float | None:
    unready = [p for p in world.pods_of(pool.spec.pool) if p.draining and not goes_first(world, p)]
    waits = [world.since.get(p.uid, world.now) + UNREADY_WITHIN - world.now for p in unready]
    waits += [] if step.again_in is None else [step.again_in]
    return min(waits, default=None)


def _snapshot(world: World, pool: EnginePool, step: Advance, *, leaving: bool) -> PoolSnapshot:
    pods = world.pods_of(pool.spec.pool)
    staying = [pod for pod in pods if not pod.draining]
    return PoolSnapshot(
        name=pool.spec.pool,
        desired=0 if leaving else pool.spec.replicas,
        ready=sum(pod.ready for pod in staying),
        outdated=sum(pod.revision != pool.spec.rollout_hash for pod in pods),
        draining=len(pods) - len(staying),
        unschedulable=next((pod.unschedulable for pod in staying if pod.unschedulable), ""),
        failure=next((w for pod in staying if (w := pod.failing or pod.waiting)), "")
        or _unmade(world, pool),
        phase=step.phase,
        rollout=step.reason,
    )


def _unmade(world: World, pool: EnginePool) -> str:
    """Return why pods cannot even be made: a quota, an admission check, an unknown class."""
    conditions = (
        condition
        for found in world.workloads_of(pool.spec.pool).values()
        for condition in found.get("status", {}).get("conditions", [])
    )
    failures = (c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True")
    return next((str(c.get("message", "")) for c in failures), "")


def _status(
    world: World, pool: EnginePool, step: Advance, unsupported: Unsupported | None
) -> EnginePoolStatus:
    before = pool.status or EnginePoolStatus()
    pods = world.pods_of(pool.spec.pool)
    wanted = pool.spec.rollout_hash
    ready = [pod for pod in pods if pod.ready and not pod.draining]
    complete = (
        unsupported is None
        and step.phase is Phase.STABLE
        and wanted in world.workloads_of(pool.spec.pool)
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
        canary=_canary(world, pool, step),
        selector=f"{DEPLOYMENT}={pool.spec.deployment},{POOL}={pool.spec.pool}",
    )


def _canary(world: World, pool: EnginePool, step: Advance) -> CanaryStatus | None:
    if step.canary_since is None or step.phase is Phase.STABLE:
        return None
    before = pool.status.canary if pool.status else None
    wanted = pool.spec.rollout_hash
    since = before.since if before and before.revision == wanted else world.time
    return CanaryStatus(revision=wanted, weight=step.canary_weight, since=since)
