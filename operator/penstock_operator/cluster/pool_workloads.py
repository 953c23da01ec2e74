"""The Deployments of one pool, one per revision: made, resized, removed. Pure."""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.cluster.actions import Action, Create, Delete, Merge
from penstock_operator.cluster.compare import missing
from penstock_operator.cluster.observed import Observed
from penstock_operator.cluster.ownership import Owner, obstacle, owned
from penstock_operator.manifests import Object, Settings, pods_for_cluster, workload, workload_name
from penstock_operator.rollout import Advance
from penstock_operator.snapshot import Obstacle


def created(
    observed: Observed,
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
    there = wanted in observed.workloads_of(pool.spec.pool)
    if there or wanted not in step.sizes or step.rejected == wanted:
        return []
    if workload_name(pool.metadata.name, wanted) in observed.workloads:
        return []  # it is being deleted, and has to go first
    body = workload(deployment, pool, settings, step.sizes[wanted])
    body = owned(pods_for_cluster(body, pool.spec.pool, observed.served), Owner.of(pool))
    return [Create(body, f"revision {wanted} needs {step.sizes[wanted]} workers")]


def resized(observed: Observed, pool: EnginePool, step: Advance) -> list[Action]:
    """Return what brings Deployments that exist to their size, and removes those with no use."""
    actions: list[Action] = []
    mine = (pod for pod in observed.pods if pod.pool == pool.spec.pool)
    busy = {pod.revision for pod in mine if not pod.over}
    keep = {*busy, pool.spec.rollout_hash, step.rejected, _stable(pool)}
    for revision, found in observed.workloads_of(pool.spec.pool).items():
        size = step.sizes.get(revision, 0)
        if obstacle(found, Owner.of(pool)):
            continue
        if size == 0 and found["spec"].get("replicas", 1) == 0 and revision not in keep:
            meta, why = found["metadata"], f"revision {revision} was replaced"
            identity = (meta["name"], meta["uid"], meta["resourceVersion"])
            actions.append(Delete("Deployment", *identity, why))
        else:
            actions += _merged(found, size, Owner.of(pool), step.reason)
    return actions


def _merged(found: Object, size: int, owner: Owner, why: str) -> list[Action]:
    """Return what gives a Deployment its size and its owner; nothing where it has both."""
    meta, has = found["metadata"], found["spec"].get("replicas", 1)
    reference = owned({"metadata": {}}, owner)
    changes: Object = dict(reference["metadata"]) if missing(found, reference) else {}
    patch: Object = {"spec": {"replicas": size}} if size != has else {}
    if not changes and not patch:
        return []
    changes["resourceVersion"] = meta["resourceVersion"]
    reason = f"{meta['name']}: {has} to {size}" + (f": {why}" if why else "")
    return [Merge("Deployment", meta["name"], {"metadata": changes, **patch}, reason)]


def workload_obstacle(observed: Observed, pool: EnginePool) -> Obstacle | None:
    """Return what is in the way of the pool's Deployments: one that somebody else owns."""
    found = (obstacle(w, Owner.of(pool)) for w in observed.workloads_of(pool.spec.pool).values())
    return next(filter(None, found), None)


def _stable(pool: EnginePool) -> str:
    return pool.status.revision.current if pool.status else ""
