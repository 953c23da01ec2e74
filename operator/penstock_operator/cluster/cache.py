"""What was last seen of the cluster, by kind, and by the InferenceDeployment that it belongs to."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from penstock_contract.labels import DEPLOYMENT, INSTANCE, LEADER
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
    """Objects as the watches told them, and as writes were answered where these are ahead."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        self._members: dict[tuple[str, Key], set[str]] = defaultdict(set)
        self._passed: dict[tuple[str, str | None], int] = {}

    def put(self, kind: str, found: Object) -> set[Key]:
        """Take over what a watch told; return the InferenceDeployments that it concerns."""
        meta = found["metadata"]
        place = (meta["namespace"], meta["name"])
        before = self._objects[kind].get(place)
        if before is not None and _version(found) <= _version(before):
            return set()
        concerned = self._remove(kind, *place)
        self._objects[kind][place] = trimmed(kind, found)
        owner = _owner(kind, found)
        self._members[kind, owner].add(meta["name"])
        return {*concerned, owner}

    def answered(self, kind: str, found: Object) -> set[Key]:
        """Take over the answer to a write; return the InferenceDeployments that it is news for.

        It mostly is ahead of the watch. One that the watch has passed is old, and may be about an
        object that is gone by now: nothing would ever tell of that again.
        """
        places = (None, found["metadata"]["namespace"])
        if any(_version(found) <= self._passed.get((kind, place), 0) for place in places):
            return set()
        return self.put(kind, found)

    def passed(self, kind: str, place: str | None, version: str) -> None:
        """Note that a watch of a namespace, or of all for None, has told all up to a version."""
        self._passed[kind, place] = max(int(version), self._passed.get((kind, place), 0))

    def drop(self, kind: str, gone: Object) -> set[Key]:
        """Forget an object that went, with the version of that, unless it is there anew."""
        meta = gone["metadata"]
        before = self.get(kind, meta["namespace"], meta["name"])
        if before is None or _version(before) > _version(gone):
            return set()
        return self._remove(kind, meta["namespace"], meta["name"])

    def relist(
        self, kind: str, place: str | None, items: Sequence[Object], version: str
    ) -> set[Key]:
        """Take over the list of a namespace, or of all, as of a version.

        What it lacks is gone, unless it was written after the list was made. A list that is older
        than what was told before it comes from a store that was restored from a backup.
        """
        concerned: set[Key] = set()
        if int(version) < self._passed.get((kind, place), 0):
            concerned |= self.forget(kind, place)
        for item in items:
            concerned |= self.put(kind, item)
        concerned |= self._keep(kind, place, items, int(version))
        self.passed(kind, place, version)
        return concerned

    def compare(
        self, kind: str, place: str | None, items: Sequence[Object], version: str
    ) -> set[Key]:
        """Take over from a list what a watch has missed, while it goes on."""
        concerned: set[Key] = set()
        for item in items:
            concerned |= self.answered(kind, item)
        return concerned | self._keep(kind, place, items, int(version))

    def _keep(
        self, kind: str, place: str | None, items: Sequence[Object], version: int
    ) -> set[Key]:
        seen = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items}
        gone = [at for at in self.names(kind, place) if at not in seen]
        old = [at for at in gone if _version(self._objects[kind][at]) <= version]
        return {key for at in old for key in self._remove(kind, *at)}

    def forget(self, kind: str, place: str | None = None) -> set[Key]:
        """Forget a kind, in a namespace or everywhere, as if nothing had ever been told of it."""
        self._passed.pop((kind, place), None)
        return {key for at in self.names(kind, place) for key in self._remove(kind, *at)}

    def _remove(self, kind: str, namespace: str, name: str) -> set[Key]:
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

    def owner(self, kind: str, namespace: str, name: str) -> Key | None:
        """Return the InferenceDeployment that an object belongs to; None: there is no object."""
        found = self.get(kind, namespace, name)
        return None if found is None else _owner(kind, found)

    def names(self, kind: str, place: str | None = None) -> list[tuple[str, str]]:
        """Return namespace and name of all objects of a kind, in a namespace or everywhere."""
        return [at for at in self._objects[kind] if place in (None, at[0])]

    def of(self, kind: str, key: Key) -> list[Object]:
        """Return the objects of a kind that belong to an InferenceDeployment, by name."""
        names = sorted(self._members.get((kind, key), ()))
        return [self._objects[kind][key.namespace, name] for name in names]


def _version(found: Object) -> int:
    """Resource versions of one kind can be compared as numbers, whichever object they are of.

    Kubernetes 1.35 promises it, and every API server on etcd has done so.
    """
    return int(found["metadata"]["resourceVersion"])


def _owner(kind: str, found: Object) -> Key:
    meta = found["metadata"]
    if kind == "InferenceDeployment":
        return Key(meta["namespace"], meta["name"])
    if kind == "EnginePool":  # its label may have been lost, its spec not
        return Key(meta["namespace"], str(found.get("spec", {}).get("deployment", "")))
    labels = meta.get("labels", {})
    return Key(meta["namespace"], labels.get(INSTANCE if LEADER in labels else DEPLOYMENT, ""))
