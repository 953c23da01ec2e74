"""What a cluster of some version knows: objects are planned for current ones, and older ones get
what comes next to it. Pure.
"""

from collections.abc import Collection

from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.unsupported import Unsupported

OLDER = {"policy/v1": "policy/v1beta1"}
"""What stands in before Kubernetes 1.21; the fields in use are the same."""


SIDECARS = "flowcontrol.apiserver.k8s.io/v1/FlowSchema"
"""Came with Kubernetes 1.29, as init containers that stay were switched on."""
CLAIMS = tuple(
    f"resource.k8s.io/{version}/ResourceClaim" for version in ("v1", "v1beta2", "v1beta1")
)
"""Served where dynamic resource allocation is switched on, as it is from 1.34 on."""
PODS_NEED = (SIDECARS, *CLAIMS)
"""Kinds by which is told what pods may have."""


class Unserved(Exception):
    """The cluster does not serve a kind in any version that could be planned."""


def for_cluster(found: Object, served: Collection[str]) -> Object:
    """Return the object in an API version that the cluster serves.

    Args:
        found: as planned.
        served: kinds like `apps/v1/Deployment` and `v1/Service`.

    Raises:
        Unserved: no version of the kind is served.
    """
    wanted, kind = found["apiVersion"], found["kind"]
    for version in (wanted, OLDER.get(wanted)):
        if version and f"{version}/{kind}" in served:
            return {**found, "apiVersion": version}
    raise Unserved(f"the cluster does not serve {kind} in {wanted}")


def pods_for_cluster(workload: Object, pool: str, served: Collection[str]) -> Object:
    """Return a Deployment whose pods have what the cluster knows.

    Args:
        workload: as planned.
        pool: its name, for a complaint.
        served: kinds like `apps/v1/Deployment`.

    Raises:
        Unsupported: the pods cannot do without what the cluster lacks.
    """
    template = workload["spec"]["template"]
    spec = template["spec"]
    if spec.get("resourceClaims") and not any(kind in served for kind in CLAIMS):
        raise Unsupported(
            f"spec.pools[{pool}].template.resourceClaims",
            "the cluster does not serve resource.k8s.io; use Kubernetes 1.34 or later, or "
            "resources.limits",
        )
    if SIDECARS in served or "initContainers" not in spec:
        return workload
    spec = _with_sidecars_beside(spec)
    return {**workload, "spec": {**workload["spec"], "template": {**template, "spec": spec}}}


def _with_sidecars_beside(spec: Object) -> Object:
    """Return a pod in which nothing that stays keeps others from their start."""
    stay = [one for one in spec["initContainers"] if one.get("restartPolicy") == "Always"]
    beside = [{k: v for k, v in one.items() if k != "restartPolicy"} for one in stay]
    first = [one for one in spec["initContainers"] if one not in stay]
    found = {**spec, "initContainers": first, "containers": [*spec["containers"], *beside]}
    return found if first else {k: v for k, v in found.items() if k != "initContainers"}
