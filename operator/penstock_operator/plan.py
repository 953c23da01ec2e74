"""What an InferenceDeployment needs, against what is there: pools to create, update, delete.

Pure. Sizes belong to the scale subresource: once a pool exists, its size is changed by the
autoscaler, `kubectl scale`, `penstock scale` or an HPA, and a reconcile keeps what they chose,
inside the bounds of the spec. Only a change of a fixed `replicas` in the spec overrides it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from penstock_contract.api import EnginePool, EnginePoolSpec, InferenceDeployment, ObjectMeta, Pool
from penstock_contract.api.pool import PoolShape
from penstock_contract.labels import DEPLOYMENT, MANAGED_BY, POOL, ROLE, SPEC_REPLICAS
from penstock_operator.adapters import at_start

LONGEST_NAME = 63
"""Characters of a DNS label."""


@dataclass(frozen=True)
class Change:
    """One pool to create, update or delete, and why."""

    verb: str
    """create, update or delete."""
    pool: EnginePool
    """As it should be (for delete: as it is)."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """The pools that should exist, and the changes that lead there; none: nothing to do."""

    pools: tuple[EnginePool, ...]
    changes: tuple[Change, ...]


def plan(deployment: InferenceDeployment, existing: Mapping[str, EnginePool]) -> Plan:
    """Return what to do about a deployment's pools.

    Args:
        deployment: the desired state.
        existing: its EnginePools by object name.
    """
    pools: list[EnginePool] = []
    changes: list[Change] = []
    for wanted in deployment.spec.pools:
        name = pool_name(deployment.metadata.name, wanted.name)
        current = existing.get(name)
        pool = _engine_pool(deployment, wanted, current)
        pools.append(pool)
        if current is None:
            changes.append(Change("create", pool, "the pool does not exist"))
        elif difference := _difference(current, pool):
            changes.append(Change("update", pool, difference))
    names = {pool.metadata.name for pool in pools}
    changes += [
        Change("delete", current, "the pool is not in the spec any more")
        for name, current in existing.items()
        if name not in names
    ]
    return Plan(tuple(pools), tuple(changes))


def pool_name(deployment: str, pool: str) -> str:
    """Return the name of a pool's objects: a DNS label that belongs to this pool alone.

    `a-b` + `c` and `a` + `b-c` must differ, so a pool name with a dash gets a hash behind it, as
    does whatever would be too long for a Service.
    """
    name = f"{deployment}-{pool}"
    if "-" not in pool and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(f"{deployment}/{pool}".encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('-')}-{digest}"


def rollout_hash(deployment: InferenceDeployment, pool: Pool) -> str:
    """Return the revision of a pool's workers: model, engine and template as the user set them.

    Defaults are left out, so that a new version of Penstock, which may know more fields or other
    defaults, restarts nothing by itself. Adapters that come and go are no part of it.
    """
    return _hash(at_start(deployment, pool), pool)


def _former_hash(deployment: InferenceDeployment, pool: Pool) -> str:
    """Return what `rollout_hash` was when every adapter was a part of it."""
    return _hash(deployment, pool)


def _hash(deployment: InferenceDeployment, pool: Pool) -> str:
    shape = {"replicas", "scaling", "cost_per_hour", "name"}
    spec = deployment.spec
    content = {
        "model": spec.model.model_dump(
            mode="json", by_alias=True, exclude_defaults=True, exclude={"aliases", "name"}
        ),
        "served": [deployment.served_name, *spec.model.aliases],
        "engine": spec.engine.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "pool": pool.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=shape),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _engine_pool(
    deployment: InferenceDeployment, wanted: Pool, current: EnginePool | None
) -> EnginePool:
    meta = deployment.metadata
    fixed = "" if wanted.replicas is None else str(wanted.replicas)
    return EnginePool(
        metadata=ObjectMeta(
            name=pool_name(meta.name, wanted.name),
            namespace=meta.namespace,
            labels={
                MANAGED_BY: "penstock",
                DEPLOYMENT: meta.name,
                POOL: wanted.name,
                ROLE: wanted.role,
            },
            annotations={SPEC_REPLICAS: fixed},
        ),
        spec=EnginePoolSpec(
            **{name: getattr(wanted, name) for name in PoolShape.model_fields},
            deployment=meta.name,
            pool=wanted.name,
            replicas=_replicas(deployment, wanted, current, fixed),
            rollout_hash=_revision(deployment, wanted, current),
        ),
    )


def _revision(deployment: InferenceDeployment, wanted: Pool, current: EnginePool | None) -> str:
    """Workers from when adapters were part of the hash go on until anything is changed."""
    former = _former_hash(deployment, wanted)
    if current is not None and current.spec.rollout_hash == former:
        return former
    return rollout_hash(deployment, wanted)


def least_replicas(deployment: InferenceDeployment, pool: Pool) -> int:
    """Return the smallest size that a pool with `scaling` may have: none, while it is idle."""
    if pool.scaling is None or deployment.spec.autoscaling.scale_to_zero:
        return 0
    return pool.scaling.min_replicas


def _replicas(
    deployment: InferenceDeployment, wanted: Pool, current: EnginePool | None, fixed: str
) -> int:
    if current is None or current.metadata.annotations.get(SPEC_REPLICAS) != fixed:
        return wanted.initial_replicas
    if wanted.scaling is None:
        return current.spec.replicas
    low = least_replicas(deployment, wanted)
    return min(max(current.spec.replicas, low), wanted.scaling.max_replicas)


def _difference(current: EnginePool, wanted: EnginePool) -> str:
    """Return which fields differ, or nothing."""
    before, after = current.spec.to_json(), wanted.spec.to_json()
    fields = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    for name in ("labels", "annotations"):
        theirs: dict[str, str] = getattr(current.metadata, name)
        if any(theirs.get(k) != v for k, v in getattr(wanted.metadata, name).items()):
            fields.append(name)
    return f"{', '.join(fields)} changed" if fields else ""
