"""What is kept of an object that was seen: what is read, each word once.

A thousand InferenceDeployments have eight thousand objects, whose fields have the same few hundred
names and mostly the same values; a pod's spec is never looked at again, nor is a workload's
template, but where followers are made of it.
"""

import sys
from typing import Any

from penstock_contract.labels import NODES
from penstock_operator.manifests import Object

LONGEST = 64
"""Characters of a value that is likely to come again; uids and names do, as references."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
METADATA = ("managedFields", "selfLink", "generateName")


def trimmed(kind: str, found: Object) -> Object:
    """Return an object without what is never read of its kind; the one given stays as it is."""
    kept = dict(found)
    kept["metadata"] = {k: v for k, v in found["metadata"].items() if k not in METADATA}
    if annotations := kept["metadata"].get("annotations"):
        kept["metadata"]["annotations"] = _without(annotations, LAST_APPLIED)
    if kind == "Pod":
        kept.pop("spec", None)
    if kind == "Deployment" and "spec" in kept and NODES not in kept["metadata"].get("labels", {}):
        kept["spec"] = _without(kept["spec"], "template")
    shared: Object = _shared(kept)
    return shared


def _without(found: Object, name: str) -> Object:
    return {key: value for key, value in found.items() if key != name}


def _shared(value: Any) -> Any:
    """Return the same value, its words shared with all others that have them."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shared(inner) for inner in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= LONGEST else value
