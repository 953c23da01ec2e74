"""The kinds that the operator reads or writes, and where the API server keeps them."""

from dataclasses import dataclass

from penstock_contract.labels import API_VERSION, DEPLOYMENT, INSTANCE, MANAGED_BY
from penstock_operator.manifests import PODS_NEED


@dataclass(frozen=True)
class Kind:
    """A kind of namespaced objects in one API version."""

    name: str
    version: str
    """Group and version, or `v1`."""
    plural: str
    selector: str = f"{MANAGED_BY}=penstock,{DEPLOYMENT}"
    """Which objects are watched."""

    @property
    def key(self) -> str:
        """How discovery names it, like `apps/v1/Deployment`."""
        return f"{self.version}/{self.name}"

    def path(self, namespace: str | None, name: str = "", sub: str = "") -> str:
        """Return the URL path of an object or a collection; no namespace: of all of them."""
        root = "api" if "/" not in self.version else "apis"
        scope = ["namespaces", namespace] if namespace is not None else []
        parts = [root, self.version, *scope, self.plural, name, sub]
        return "/" + "/".join(part for part in parts if part)


INFERENCE_DEPLOYMENT = Kind("InferenceDeployment", API_VERSION, "inferencedeployments", "")
ENGINE_POOL = Kind("EnginePool", API_VERSION, "enginepools", "")
POD = Kind("Pod", "v1", "pods", f"{MANAGED_BY}=penstock,{INSTANCE}")
DEPLOYMENTS = Kind("Deployment", "apps/v1", "deployments")
EVENT = Kind("Event", "v1", "events")

CHILDREN = (
    DEPLOYMENTS,
    Kind("Service", "v1", "services"),
    Kind("ServiceAccount", "v1", "serviceaccounts"),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Kind("PodDisruptionBudget", "policy/v1beta1", "poddisruptionbudgets"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors"),
)
"""Kinds of children, newer versions first."""


def asked_for() -> set[str]:
    """Return the API versions whose kinds decide what is planned."""
    needed = {kind.rpartition("/")[0] for kind in PODS_NEED}
    return {kind.version for kind in CHILDREN} | needed


def served_children(served: frozenset[str]) -> list[Kind]:
    """Return one version of each kind of child that the cluster serves."""
    found: dict[str, Kind] = {}
    for kind in CHILDREN:
        if kind.key in served:
            found.setdefault(kind.name, kind)
    return list(found.values())
