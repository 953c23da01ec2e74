"""What to do about one InferenceDeployment now: the operator's whole policy in a cluster. Pure.

Level-triggered: only what is there counts, never which event led here. Asked again after its
actions were done, it answers with what is still missing; when nothing is, with nothing.
"""

from penstock_contract.api import EnginePool, InferenceDeployment, InferenceDeploymentStatus
from penstock_contract.conditions import Reason
from penstock_contract.labels import DEPLOYMENT, MANAGED_BY, POOL, ROLE, SPEC_REPLICAS
from penstock_operator.cluster.actions import (
    Action,
    Create,
    Decision,
    Merge,
    RecordEvent,
    WriteStatus,
)
from penstock_operator.cluster.adapter_states import adapter_states, agents, announcements
from penstock_operator.cluster.children import children
from penstock_operator.cluster.compare import merge_patch
from penstock_operator.cluster.model_access import model_missing
from penstock_operator.cluster.observed import Observed
from penstock_operator.cluster.ownership import Owner, obstacle, owned
from penstock_operator.cluster.pool_step import PoolStep, pool_step
from penstock_operator.cluster.reading import read_status
from penstock_operator.cluster.served_names import is_nameless, names_taken
from penstock_operator.manifests import Object, Settings, deployment_objects
from penstock_operator.plan import Plan, plan
from penstock_operator.snapshot import Obstacle, PoolSnapshot, Snapshot
from penstock_operator.status import invalid_status, status

POOL_LABELS = (MANAGED_BY, DEPLOYMENT, POOL, ROLE)


def decide(observed: Observed, settings: Settings) -> Decision:
    """Return the next actions for an InferenceDeployment, in order."""
    deployment = observed.deployment
    if "deletionTimestamp" in observed.raw["metadata"]:
        return Decision()  # what it owns goes with it
    if deployment is None:
        return Decision(tuple(_invalid(observed)))
    planned = plan(deployment, observed.pools)
    planned_children = deployment_objects(deployment, settings).values()
    around, held = children(observed, planned_children, Owner.of(deployment))
    pools = _pools(observed, deployment, planned)
    held = held or _obstacle(observed, deployment)
    steps = _steps(observed, deployment, planned, settings)
    actions: list[Action] = [*around, *pools]
    for name, step in steps.items():
        actions += step.actions
        actions += _pool_report(observed.pools[name], step)
    actions += announcements(observed)
    seen = _snapshot(observed, deployment, planned, steps, held)
    before = deployment.status
    now = status(deployment, seen, before, observed.time)
    actions += _report(observed, before, now)
    waits = [step.again_in for step in steps.values() if step.again_in is not None]
    drains = any(step.drains or step.status is None for step in steps.values())
    told = agents(observed, planned.pools)
    return Decision(tuple(actions), min(waits) if waits else None, drains or bool(now.canary), told)


def _invalid(observed: Observed) -> list[Action]:
    meta = observed.raw["metadata"]
    before = read_status(observed.raw)
    now = invalid_status(meta.get("generation", 1), observed.invalid, before, observed.time)
    return _report(observed, before, now)


def _pools(observed: Observed, deployment: InferenceDeployment, planned: Plan) -> list[Action]:
    """Return what brings the EnginePools in line.

    The plan keeps the `replicas` that it finds, unless the parent's fixed number or its bounds
    changed; a patch names the version that it was decided on, so whoever scales in between wins.
    """
    actions: list[Action] = []
    for pool in planned.pools:
        body = owned(_stored(pool), Owner.of(deployment))
        current = observed.pools.get(pool.metadata.name)
        if current is None:
            actions.append(Create(body, "the pool does not exist"))
            continue
        if obstacle(current.to_json(), Owner.of(deployment)):
            continue
        there = _stored(current)
        there["metadata"] |= {
            "ownerReferences": current.to_json()["metadata"].get("ownerReferences")
        }
        if patch := merge_patch(there, body):
            version = {"resourceVersion": current.metadata.resource_version}
            patch["metadata"] = {**patch.get("metadata", {}), **version}
            why = f"{', '.join(sorted(patch.get('spec', patch)))} changed"
            actions.append(Merge("EnginePool", pool.metadata.name, patch, why))
    return actions


def _obstacle(observed: Observed, deployment: InferenceDeployment) -> Obstacle | None:
    owner = Owner.of(deployment)
    found = (obstacle(pool.to_json(), owner) for pool in observed.pools.values())
    return next(filter(None, found), None)


def _stored(pool: EnginePool) -> Object:
    """Return of a pool what the operator writes; labels and annotations of others stay."""
    body = pool.to_json()
    meta = body["metadata"]
    mine = {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": {k: v for k, v in meta["labels"].items() if k in POOL_LABELS},
        "annotations": {k: v for k, v in meta["annotations"].items() if k == SPEC_REPLICAS},
    }
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": mine,
        "spec": body["spec"],
    }


def _steps(
    observed: Observed, deployment: InferenceDeployment, planned: Plan, settings: Settings
) -> dict[str, PoolStep]:
    """Return the next steps of all pools that exist, the ones that leave included.

    A pool is run as the plan has it from this very moment, so that a new revision does not wait
    for the pool's own object to be written and seen.
    """
    wanted = {pool.metadata.name: pool for pool in planned.pools}
    steps: dict[str, PoolStep] = {}
    for name, there in observed.pools.items():
        if there.metadata.deletion_timestamp is not None or there.metadata.uid is None:
            continue
        if obstacle(there.to_json(), Owner.of(deployment)):
            continue
        pool = _with_spec(there, wanted[name]) if name in wanted else there
        leaving = name not in wanted
        steps[name] = pool_step(observed, deployment, pool, settings, leaving=leaving)
    return steps


def _with_spec(there: EnginePool, wanted: EnginePool) -> EnginePool:
    """Return a stored pool with the spec that it is about to get."""
    return there.model_copy(update={"spec": wanted.spec})


def _snapshot(
    observed: Observed,
    deployment: InferenceDeployment,
    planned: Plan,
    steps: dict[str, PoolStep],
    held: Obstacle | None,
) -> Snapshot:
    snapshots = []
    for pool in planned.pools:
        step, spec = steps.get(pool.metadata.name), pool.spec
        new = PoolSnapshot(spec.pool, spec.replicas, spec.rollout_hash)
        snapshots.append(step.snapshot if step else new)
    unsupported = next((s.unsupported for s in steps.values() if s.unsupported), None)
    trials = (s.status.canary for s in steps.values() if s.status and s.status.canary)
    return Snapshot(
        pools=tuple(snapshots),
        router_ready=observed.gateways.ready,
        url=observed.gateways.url,
        unsupported=unsupported,
        obstacle=held
        or next((s.obstacle for s in steps.values() if s.obstacle), None)
        or observed.refused,
        canary=next(trials, None),
        model_missing=model_missing(deployment, observed.pods),
        scaling=observed.scaling,
        adapters=tuple(adapter_states(observed, deployment, planned.pools)),
        names_taken=names_taken(deployment, observed.names_lost),
        nameless=is_nameless(deployment, observed.names_lost),
    )


def _pool_report(pool: EnginePool, step: PoolStep) -> list[Action]:
    if step.status is None:
        return []
    before = pool.status.to_json() if pool.status else {}
    now = step.status.to_json()
    return [WriteStatus("EnginePool", pool.metadata.name, now)] if now != before else []


def _report(
    observed: Observed, before: InferenceDeploymentStatus | None, now: InferenceDeploymentStatus
) -> list[Action]:
    """Return the status to write, and what of it people should hear of, if anything changed."""
    if before is not None and now.to_json() == before.to_json():
        return []
    name = observed.raw["metadata"]["name"]
    actions: list[Action] = [WriteStatus("InferenceDeployment", name, now.to_json())]
    known = {c.type: c for c in before.conditions} if before else {}
    for condition in now.conditions:
        old = known.get(condition.type)
        if old is None or (old.status, old.reason) != (condition.status, condition.reason):
            words = f"{condition.type} is {condition.status}"
            words += f": {condition.message}" if condition.message else ""
            warning = condition.status == "False" and condition.reason in _WARNINGS
            actions.append(RecordEvent(condition.reason, words[:1000], warning))
    return actions


_WARNINGS = frozenset(
    (
        Reason.ADAPTER_FAILED,
        Reason.INSUFFICIENT_CAPACITY,
        Reason.INVALID_SPEC,
        Reason.METRICS_STALE,
        Reason.MODEL_NOT_FOUND,
        Reason.NAME_TAKEN,
        Reason.OBJECTIVE_INFEASIBLE,
        Reason.PODS_FAILING,
        Reason.ROLLED_BACK,
        Reason.STALLED,
        Reason.UNSUPPORTED_SOURCE,
        Reason.UNSUPPORTED_SPEC,
    )
)
"""Reasons of which a user should be warned."""
