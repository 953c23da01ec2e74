"""What all planned objects share: their shape, names and labels."""

from typing import Any

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.labels import (
    COMPONENT,
    DEPLOYMENT,
    INSTANCE,
    MANAGED_BY,
    NAME,
    POOL,
    ROLE,
)

Object = dict[str, Any]


def pool_object(api_version: str, kind: str, pool: EnginePool, **content: Any) -> Object:
    """Return an object that bears the name of its pool."""
    metadata = {
        "name": pool.metadata.name,
        "namespace": pool.metadata.namespace,
        "labels": pool_labels(pool),
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def deployment_object(
    api_version: str, kind: str, deployment: InferenceDeployment, **content: Any
) -> Object:
    """Return an object that bears the name of its InferenceDeployment."""
    name = deployment.metadata.name
    metadata = {
        "name": name,
        "namespace": deployment.metadata.namespace,
        "labels": {NAME: "penstock", INSTANCE: name, MANAGED_BY: "penstock", DEPLOYMENT: name},
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def pool_selector(pool: EnginePool) -> dict[str, str]:
    """Return the labels that find the pods of a pool, of every revision."""
    return {DEPLOYMENT: pool.spec.deployment, POOL: pool.spec.pool}


def pool_labels(pool: EnginePool) -> dict[str, str]:
    """Return the labels of everything that belongs to a pool."""
    return {
        NAME: "penstock",
        INSTANCE: pool.spec.deployment,
        COMPONENT: "worker",
        MANAGED_BY: "penstock",
        ROLE: str(pool.spec.role),
        **pool_selector(pool),
    }
