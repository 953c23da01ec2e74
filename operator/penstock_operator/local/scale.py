"""Setting the size of one pool: the same write that `kubectl scale` makes in a cluster."""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.local.errors import UserError
from penstock_operator.local.store import Store
from penstock_operator.plan import least_replicas

MOST = 10_000


def scale(store: Store, target: str, replicas: int) -> int:
    """Set `spec.replicas` of the pool named `deployment/pool`; return what it was.

    Raises:
        UserError: no such pool, or a size outside of its bounds.
    """
    pools = {f"{p.spec.deployment}/{p.spec.pool}": p for p in store.list(EnginePool)}
    found = pools.get(target)
    if found is None:
        known = ", ".join(pools) or "none"
        raise UserError(f"there is no pool {target!r}; known pools: {known}")
    low, high, where = _bounds(store, found)
    if not low <= replicas <= high:
        raise UserError(f"{target} takes {low} to {high} replicas ({where}), not {replicas}")
    store.update(EnginePool, found.metadata.name, lambda pool: _sized(pool, replicas))
    return found.spec.replicas


def _sized(pool: EnginePool, replicas: int) -> EnginePool:
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"replicas": replicas})})


def _bounds(store: Store, pool: EnginePool) -> tuple[int, int, str]:
    """Return the least and most replicas, and where that is written."""
    owner = store.get(InferenceDeployment, pool.spec.deployment)
    declared = [p for p in owner.spec.pools if p.name == pool.spec.pool] if owner else []
    for entry in declared:
        if entry.scaling:
            low = least_replicas(owner, entry) if owner else entry.scaling.min_replicas
            return low, entry.scaling.max_replicas, "the pool's scaling bounds"
    return 0, MOST, "the API's limit"
