"""A store that does what an API server and its controllers would, for the operator's decisions."""

import itertools
import json
from typing import Any

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.fleet import WorkerLoad, WorkerState
from penstock_contract.labels import DRAINING
from penstock_operator.cluster.actions import (
    Action,
    Apply,
    Create,
    Decision,
    Delete,
    Mark,
    Merge,
    RecordEvent,
    WriteStatus,
)
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.observed import Gateways, Observed, pod
from penstock_operator.manifests import Settings

Object = dict[str, Any]
SETTINGS = Settings()
SERVED = frozenset(
    {
        "v1/Service",
        "v1/ServiceAccount",
        "policy/v1/PodDisruptionBudget",
        "networking.k8s.io/v1/NetworkPolicy",
    }
)


class Store:
    """Keeps objects, makes pods for Deployments, and lets gateways confirm drains."""

    def __init__(self, wanted: InferenceDeployment, served: frozenset[str] = SERVED) -> None:
        self.served = served
        self._serial = itertools.count(1)
        self.objects: dict[tuple[str, str], Object] = {}
        self.told: list[RecordEvent] = []
        self.now = 0.0
        self.spec(wanted)

    def spec(self, wanted: InferenceDeployment) -> None:
        """Apply a spec, as a user does."""
        key = ("InferenceDeployment", wanted.metadata.name)
        before = self.objects.get(key)
        body = wanted.to_json()
        if before:
            body["metadata"]["generation"] = before["metadata"]["generation"] + 1
            body["status"] = before.get("status", {})
        self.put(body)

    def put(self, body: Object) -> Object:
        """Store an object, as a new version of whatever has its name."""
        key = (body["kind"], body["metadata"]["name"])
        body = json.loads(json.dumps(body))
        meta = body["metadata"]
        meta.setdefault("namespace", "default")
        old = self.objects.get(key, {"metadata": {}})["metadata"]
        meta["uid"] = old.get("uid") or f"uid-{next(self._serial)}"
        meta["resourceVersion"] = str(next(self._serial))
        self.objects[key] = body
        return body

    def of(self, kind: str) -> list[Object]:
        return [found for (k, _), found in sorted(self.objects.items()) if k == kind]

    def observed(self) -> Observed:
        """Return what the operator sees."""
        raw = self.of("InferenceDeployment")[0]
        pods = tuple(pod(found) for found in self.of("Pod"))
        kinds = {kind.rpartition("/")[2] for kind in self.served}
        draining = [p.uid for p in pods if p.draining]
        loads = {p.uid: WorkerLoad(state=WorkerState.READY) for p in pods}
        return Observed(
            raw=raw,
            deployment=InferenceDeployment.model_validate(raw),
            invalid="",
            pools={
                p["metadata"]["name"]: EnginePool.model_validate(p) for p in self.of("EnginePool")
            },
            children={key: o for key, o in self.objects.items() if key[0] in kinds},
            workloads={w["metadata"]["name"]: w for w in self.of("Deployment")},
            pods=pods,
            gateways=Gateways(True, "http://gateway/v1", loads, frozenset(draining)),
            served=self.served,
            now=self.now,
        )

    def act(self, action: Action) -> None:
        """Do what was decided."""
        match action:
            case Create(body, _):
                assert (body["kind"], body["metadata"]["name"]) not in self.objects
                self.put(body)
            case Apply(body, _):
                before = self.objects.get((body["kind"], body["metadata"]["name"]), {})
                self.put(merged(before, body))
            case Merge(kind, name, patch, _):
                before = self.objects[kind, name]
                version = patch["metadata"]["resourceVersion"]
                assert version == before["metadata"]["resourceVersion"], "decided on a stale read"
                self.put(merged(before, patch))
            case Mark(name, _, _, patch, _):
                self.put(merged(self.objects["Pod", name], patch))
            case Delete(kind, name, uid, version, _):
                meta = self.objects[kind, name]["metadata"]
                assert (meta["uid"], meta["resourceVersion"]) == (uid, version)
                self.collect(kind, name)
            case WriteStatus(kind, name, status):
                self.put({**self.objects[kind, name], "status": status})
            case RecordEvent():
                self.told.append(action)

    def collect(self, kind: str, name: str) -> None:
        """Garbage collection, children last."""
        uid = self.objects.pop((kind, name))["metadata"]["uid"]
        for key, found in list(self.objects.items()):
            owners = found["metadata"].get("ownerReferences", [])
            if any(owner["uid"] == uid for owner in owners) and key in self.objects:
                self.collect(*key)

    def controllers(self) -> None:
        """Deployments get their pods; a pod is ready unless it drains."""
        for found in self.of("Deployment"):
            template, uid = found["spec"]["template"], found["metadata"]["uid"]
            owner = [{"uid": uid, "kind": "Deployment", "name": found["metadata"]["name"]}]
            mine = [p for p in self.of("Pod") if p["metadata"]["ownerReferences"] == owner]
            for _ in range(found["spec"]["replicas"] - len(mine)):
                metadata = {
                    "name": f"pod-{next(self._serial)}",
                    "labels": template["metadata"]["labels"],
                    "annotations": {},
                    "ownerReferences": owner,
                }
                status = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": ""}
                self.put({"kind": "Pod", "metadata": metadata, "status": status})
            mine.sort(key=lambda p: DRAINING not in p["metadata"]["annotations"])
            for extra in mine[: max(0, len(mine) - found["spec"]["replicas"])]:
                del self.objects["Pod", extra["metadata"]["name"]]

    def settle(self) -> Decision:
        """Decide and act until there is nothing left to do."""
        for _ in range(60):
            self.now += 1
            decision = decide(self.observed(), SETTINGS)
            if not decision.actions:
                return decision
            for action in decision.actions:
                self.act(action)
            self.controllers()
        raise AssertionError(f"never settles: {decision.actions}")


def merged(before: Object, patch: Object) -> Object:
    """JSON merge patch."""
    result = dict(before)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            inner = before.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result
