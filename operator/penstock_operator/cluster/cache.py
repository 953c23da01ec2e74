"""What was last seen of the cluster, by kind, and by the InferenceDeployment that it belongs to."""

from collections import defaultdict
from dataclasses import dataclass

from penstock_contract.labels import DEPLOYMENT
from penstock_operator.cluster.trim import trimmed
from penstock_operator.manifests import Object


@dataclass(frozen=True, order=True)
class Key:
    """Names an InferenceDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Cache:
    """Objects as the watches told them."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._members: dict[tuple[str, Key], set[str]] = defaultdict(set)

    def put(self, kind: str, found: Object) -> set[Key]:
        """Take over a new state; return the InferenceDeployments that it concerns."""
        meta = found["metadata"]
        place = (meta["namespace"], meta["name"])
        before = self._objects[kind].get(place)
        if before is not None and not _newer(meta, before["metadata"]):
            return set()
        concerned = self.drop(kind, *place)
        self._objects[kind][place] = trimmed(kind, found)
        owner = _owner(kind, found)
        self._members[kind, owner].add(meta["name"])
        return {*concerned, owner}

    def drop(self, kind: str, namespace: str, name: str) -> set[Key]:
        """Forget an object; return the InferenceDeployments that it concerned."""
        before = self._objects[kind].pop((namespace, name), None)
        if before is None:
            return set()
        owner = _owner(kind, before)
        members = self._members[kind, owner]
        members.discard(name)
        if not members:
            del self._members[kind, owner]
        return {owner}

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object as last seen."""
        return self._objects[kind].get((namespace, name))

    def names(self, kind: str) -> list[tuple[str, str]]:
        """Return namespace and name of all objects of a kind."""
        return list(self._objects[kind])

    def of(self, kind: str, key: Key) -> list[Object]:
        """Return the objects of a kind that belong to an InferenceDeployment, by name."""
        names = sorted(self._members.get((kind, key), ()))
        return [self._objects[kind][key.namespace, name] for name in names]


def _newer(meta: Object, known: Object) -> bool:
    """An answer to a write is often ahead of the watch; what the watch tells later is no news.

    Resource versions of one object can be compared as numbers (Kubernetes 1.35 promises it, and
    every API server on etcd has done so); another uid is another object.
    """
    if meta["uid"] != known["uid"]:
        return True
    return int(meta["resourceVersion"]) > int(known["resourceVersion"])


def _owner(kind: str, found: Object) -> Key:
    meta = found["metadata"]
    if kind == "InferenceDeployment":
        return Key(meta["namespace"], meta["name"])
    if kind == "EnginePool":  # its label may have been lost, its spec not
        return Key(meta["namespace"], str(found.get("spec", {}).get("deployment", "")))
    return Key(meta["namespace"], meta.get("labels", {}).get(DEPLOYMENT, ""))
