"""What is wanted on this machine: the plan of every stored InferenceDeployment, written back.

The same plan and the same pod templates as in a cluster; only the last step differs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock_contract.api import EnginePool, InferenceDeployment, Tenant
from penstock_contract.api.base import seconds
from penstock_operator.adapters import all_later
from penstock_operator.local.decide import PoolKey, Wanted
from penstock_operator.local.errors import UserError
from penstock_operator.local.manifest import model_folder
from penstock_operator.local.store import Store
from penstock_operator.manifests import Unsupported, worker_container
from penstock_operator.manifests.adapters import local_adapters
from penstock_operator.plan import plan


@dataclass(frozen=True)
class PlannedPool:
    """A pool and how its workers are run."""

    deployment: InferenceDeployment
    pool: EnginePool
    container: Mapping[str, Any]
    """The engine's container in the planned pod template."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Folders of adapters that its workers are to have, by name."""

    @property
    def key(self) -> PoolKey:
        """Names it."""
        return PoolKey(self.pool.spec.deployment, self.pool.spec.pool)

    @property
    def model_folder(self) -> str:
        """Where the model lies on this machine."""
        return str(model_folder(self.deployment))

    @property
    def wanted(self) -> Wanted:
        """Return what decisions are made from."""
        spec = self.deployment.spec
        return Wanted(
            key=self.key,
            replicas=self.pool.spec.replicas,
            revision=self.pool.spec.rollout_hash,
            max_surge=spec.rollout.max_surge,
            max_unavailable=spec.rollout.max_unavailable,
            drain_timeout=seconds(spec.drain.timeout),
        )


@dataclass(frozen=True)
class Desired:
    """Everything that is wanted."""

    deployments: tuple[InferenceDeployment, ...] = ()
    pools: Mapping[PoolKey, PlannedPool] = field(default_factory=dict)
    tenants: tuple[Tenant, ...] = ()
    troubles: Mapping[str, UserError | Unsupported] = field(default_factory=dict)
    """Why deployments are not planned, by their names; what was planned of them before stays."""


def reconcile(store: Store, now: str, before: Desired | None = None) -> Desired:
    """Bring the stored pools in line with the stored deployments; return what is wanted.

    Writes nothing when nothing is to change. A deployment that cannot be planned, since its file
    is damaged or it asks for what this version does not build, is no reason to stop the others.

    Args:
        store: of this machine.
        now: RFC 3339.
        before: what was wanted until now.

    Raises:
        UserError: a tenant is damaged; to go on without it might let everybody in.
    """
    before = before or Desired()
    tenants = tuple(store.list(Tenant))
    names = store.names(InferenceDeployment)
    _forget_pools(store, names)
    known = {deployment.metadata.name: deployment for deployment in before.deployments}
    deployments: list[InferenceDeployment] = []
    pools: dict[PoolKey, PlannedPool] = {}
    troubles: dict[str, UserError | Unsupported] = {}
    for name in names:
        deployment, planned, trouble = _planned(store, name, now)
        if trouble is not None:
            troubles[name] = trouble
            planned = [pool for key, pool in before.pools.items() if key.deployment == name]
            deployment = deployment or known.get(name)
        deployments += [deployment] if deployment else []
        pools |= {pool.key: pool for pool in planned}
    return Desired(tuple(deployments), pools, tenants, troubles)


def _planned(
    store: Store, name: str, now: str
) -> tuple[InferenceDeployment | None, list[PlannedPool], UserError | Unsupported | None]:
    """Return a deployment, its pools, and why it has none."""
    deployment = None
    try:
        deployment = store.get(InferenceDeployment, name)
        return deployment, _reconcile_one(store, deployment, now) if deployment else [], None
    except (UserError, Unsupported) as error:
        return deployment, [], error


def _forget_pools(store: Store, deployments: Collection[str]) -> None:
    """Remove the pools of deployments that are gone, as garbage collection does in a cluster."""
    for pool in store.readable(EnginePool):
        if pool.spec.deployment not in deployments:
            store.delete(EnginePool, pool.metadata.name)


def _reconcile_one(store: Store, declared: InferenceDeployment, now: str) -> list[PlannedPool]:
    name, deployment = declared.metadata.name, all_later(declared)
    existing = {p.metadata.name: p for p in store.readable(EnginePool) if p.spec.deployment == name}
    pools = {pool.metadata.name: pool for pool in plan(deployment, existing).pools}
    for gone in existing.keys() - pools.keys():
        store.delete(EnginePool, gone)
    stored = []
    for pool_name, pool in pools.items():
        if pool_name not in existing:
            stored.append(store.put(pool, now))
        else:
            # Planned again inside the update: somebody may have scaled the pool since it was read.
            stored.append(store.update(EnginePool, pool_name, lambda old: _replan(deployment, old)))
    return [
        PlannedPool(deployment, pool, worker_container(deployment, pool), local_adapters(declared))
        for pool in stored
    ]


def _replan(deployment: InferenceDeployment, old: EnginePool) -> EnginePool:
    name = old.metadata.name
    return next(p for p in plan(deployment, {name: old}).pools if p.metadata.name == name)
