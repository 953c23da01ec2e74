"""The state of a namespace as it can be compared: without identities, times and counters.

Two namespaces that were led to the same spec on different paths must come out equal.
"""

import json
from collections import Counter
from typing import Any

from kube import Kube, Object

KINDS = (
    "InferenceDeployment",
    "EnginePool",
    "Deployment",
    "Service",
    "ServiceAccount",
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
OURS = ("InferenceDeployment", "EnginePool")
"""Kinds whose status the operator writes."""
GIVEN = {"ServiceAccount/default", "ConfigMap/kube-root-ca.crt"}
"""What every namespace has."""
VOLATILE = {
    *("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"),
    *("lastTransitionTime", "observedGeneration", "time", "since", "url"),
    *("clusterIP", "clusterIPs", "secrets", "deployment.kubernetes.io/revision"),
}
ROLLOUT_HASH = "penstock.dev/rollout-hash"
DRAINING = "penstock.dev/draining"


def state(kube: Kube) -> dict[str, Any]:
    """Return the namespace's objects by `Kind/name`, and its pods as counts."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for item in kube.list(kind):
            key = f"{kind}/{item['metadata']['name']}"
            if key not in GIVEN:
                kept = item if kind in OURS else {k: v for k, v in item.items() if k != "status"}
                found[key] = _plain(kept, kube.namespace)
    found["pods"] = dict(Counter(map(_pod, kube.list("Pod"))))
    return found


def difference(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Return where two states differ, in words."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys(), key=str)
        return [
            found
            for key in keys
            for found in difference(ours.get(key), theirs.get(key), f"{path}.{key}")
        ]
    if ours == theirs:
        return []
    return [f"{path}: {_short(ours)} instead of {_short(theirs)}"]


def _short(value: Any) -> str:
    return json.dumps(value)[:300]


def _pod(pod: Object) -> str:
    meta = pod["metadata"]
    labels = meta.get("labels", {})
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])
    )
    marks = [
        mark
        for mark, present in (
            ("ready", ready),
            ("draining", DRAINING in meta.get("annotations", {})),
            ("leaving", "deletionTimestamp" in meta),
        )
        if present
    ]
    return " ".join([labels.get(ROLLOUT_HASH, "?")[:8], *marks])


def _plain(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v, namespace) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [_plain(item, namespace) for item in value]
    return value.replace(namespace, "NAMESPACE") if isinstance(value, str) else value
