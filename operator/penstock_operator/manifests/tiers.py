"""The volume of a KV tier: what it takes of the node, said so that nobody evicts the pod for it."""

from math import ceil

from penstock_contract.api import EnginePool, Resources
from penstock_contract.api.base import quantity
from penstock_contract.api.engine import KvTier
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.penstock import TIER

EPHEMERAL = "ephemeral-storage"
LEAST = 64 << 20
"""Bytes of the smallest tier."""
_VOLUME = "kv"
_MEBIBYTE = 1 << 20


def tier_volume(tier: KvTier) -> Object:
    """Return a tier's volume: its claim, or a folder of the node that ends with the pod."""
    if tier.claim_name is not None:
        return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": tier.claim_name}}
    return {"name": _VOLUME, "emptyDir": {"sizeLimit": _room(tier)}}


def tier_mount() -> Object:
    """Return how a worker sees it."""
    return {"name": _VOLUME, "mountPath": TIER}


def tier_request(tier: KvTier, resources: Resources) -> dict[str, str]:
    """Return what to ask of the node for a tier, unless the pool says by itself what it takes."""
    said = EPHEMERAL in resources.limits or EPHEMERAL in resources.requests
    return {} if tier.claim_name is not None or said else {EPHEMERAL: _room(tier)}


def exceeds_limit(tier: KvTier, pool: EnginePool) -> bool:
    """Return whether kubelet would evict a pod whose tier is full."""
    limit = pool.spec.resources.limits.get(EPHEMERAL)
    if tier.claim_name is not None or limit is None:
        return False
    return quantity(limit) < quantity(_room(tier))


def _room(tier: KvTier) -> str:
    """Return the capacity with folders, and files that are being written."""
    return f"{ceil((quantity(tier.capacity) * 17 / 16 + LEAST) / _MEBIBYTE)}Mi"
