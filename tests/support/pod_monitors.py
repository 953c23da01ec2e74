"""A kind that a cluster may serve or not: PodMonitor, as the Prometheus operator brings it."""

from typing import Any

from kube import Kube
from waiting import eventually

NAME = "podmonitors.monitoring.coreos.com"


def serve(kube: Kube) -> bool:
    """Let the cluster serve PodMonitors; return whether it did not before."""
    missing = kube.get("CustomResourceDefinition", NAME) is None
    if missing:
        kube.create(POD_MONITOR)
    objects = "/apis/monitoring.coreos.com/v1/podmonitors"
    eventually(lambda: kube.http.get(objects).status_code == 200, "PodMonitor served")
    return missing


def forget(kube: Kube) -> None:
    """Let the cluster serve them no more."""
    kube.delete("CustomResourceDefinition", NAME)
    gone = "PodMonitor not served"
    eventually(lambda: kube.get("CustomResourceDefinition", NAME) is None, gone)


POD_MONITOR: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": NAME},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}
