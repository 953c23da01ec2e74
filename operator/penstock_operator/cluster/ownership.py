"""Owner references: what goes when its owner goes, by the cluster's garbage collection. Pure."""

from dataclasses import dataclass
from typing import Any

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.conditions import Reason
from penstock_contract.labels import API_VERSION
from penstock_operator.manifests import Object
from penstock_operator.snapshot import Obstacle


@dataclass(frozen=True)
class Owner:
    """Whose an object is."""

    kind: str
    name: str
    uid: str
    version: str = API_VERSION

    @classmethod
    def of(cls, found: InferenceDeployment | EnginePool) -> "Owner":
        """Return a stored object as an owner."""
        return cls(found.kind, found.metadata.name, found.metadata.uid or "")


def owned(body: Object, owner: Owner) -> Object:
    """Return the object with its owner."""
    reference = {
        "apiVersion": owner.version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


def obstacle(there: Object, owner: Owner) -> Obstacle | None:
    """Return why an object cannot be the owner's; None: it is, or nobody controls it yet.

    What an earlier object of the owner's name controls goes with that one. To take it over would
    be wrong when it is our own view of the owner that is out of date: it would be collected.
    """
    references: list[dict[str, Any]] = there["metadata"].get("ownerReferences") or []
    other = next((r for r in references if r.get("controller")), None)
    if other is None or other["uid"] == owner.uid:
        return None
    what, whose = f"{there['kind']} {there['metadata']['name']}", f"{other['kind']} {other['name']}"
    if (other["kind"], other["name"]) == (owner.kind, owner.name):
        return Obstacle(Reason.UPDATING, f"{what} belongs to an earlier {whose} and goes first")
    return Obstacle(Reason.NAME_TAKEN, f"{what} belongs to {whose}; rename one of them")
