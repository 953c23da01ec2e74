"""Owner references: what goes when its owner goes, by the cluster's garbage collection. Pure."""

from dataclasses import dataclass
from typing import Any

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.labels import API_VERSION
from penstock_operator.manifests import Object


@dataclass(frozen=True)
class Owner:
    """Whose an object is."""

    kind: str
    name: str
    uid: str

    @classmethod
    def of(cls, found: InferenceDeployment | EnginePool) -> "Owner":
        """Return a stored object as an owner."""
        return cls(found.kind, found.metadata.name, found.metadata.uid or "")


def owned(body: Object, owner: Owner) -> Object:
    """Return the object with its owner."""
    reference = {
        "apiVersion": API_VERSION,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


def stranger(there: Object, uid: str) -> str:
    """Return who else controls an object; nothing when nobody does, or the owner of this uid."""
    references: list[dict[str, Any]] = there["metadata"].get("ownerReferences", [])
    other = next((r for r in references if r.get("controller") and r.get("uid") != uid), None)
    return f"{other['kind']} {other['name']}" if other else ""
