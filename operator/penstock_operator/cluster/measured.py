"""Which pods the autoscaler counts, and which of them it measures. Pure."""

from collections.abc import Iterable, Sequence

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.sources import Target
from penstock_operator.autoscaling.topology import PoolTopology, Topology
from penstock_operator.cluster.cache import Key
from penstock_operator.cluster.gateways import base_url
from penstock_operator.cluster.observed import Pod


def _living(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods that count: one that was evicted is kept only to be looked at.

    Counted as a start it would keep its deployment from ever being idle.
    """
    return [found for found in pods if not found.over]


def topology_of(
    deployment: InferenceDeployment,
    pools: Sequence[EnginePool],
    pods: Sequence[Pod],
    gateways: Sequence[Target],
) -> Topology:
    """Return who of a deployment is there, given all of its pods."""
    mine = _living(pods)
    topologies = tuple(_pool(pool, [p for p in mine if p.pool == pool.spec.pool]) for pool in pools)
    return Topology(deployment.served_name, tuple(found.id for found in gateways), topologies)


def _pool(pool: EnginePool, pods: Sequence[Pod]) -> PoolTopology:
    serving = [found for found in pods if found.ready]
    leaving = [found for found in pods if found.draining or found.deleting]
    return PoolTopology(
        name=pool.spec.pool,
        role=pool.spec.role,
        desired=pool.spec.replicas,
        workers=tuple(found.name for found in serving),
        ready=sum(1 for found in serving if not (found.draining or found.deleting)),
        starting=sum(1 for found in pods if not (found.ready or found.draining or found.deleting)),
        draining=len(leaving),
    )


def targets_of(key: Key, pods: Sequence[Pod]) -> list[Target]:
    """Return those of a deployment's pods that can be asked for their metrics."""
    return [
        Target(found.name, base_url(found.address), names.WORKER_FAMILIES, key.namespace)
        for found in _living(pods)
        if found.ready and found.address
    ]
