"""A small Kubernetes API client for tests: plain objects in and out, nothing cached.

It shares no code with the operator's client, so that a mistake there can't hide itself here.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kubernetes.client import Configuration
from kubernetes.config import load_kube_config
from waiting import PATIENCE

Object = dict[str, Any]

RESOURCES = {
    "InferenceDeployment": ("apis/penstock.dev/v1alpha1", "inferencedeployments"),
    "Tenant": ("apis/penstock.dev/v1alpha1", "tenants"),
    "EnginePool": ("apis/penstock.dev/v1alpha1", "enginepools"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "ReplicaSet": ("apis/apps/v1", "replicasets"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Secret": ("api/v1", "secrets"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Event": ("api/v1", "events"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": ("apis/autoscaling/v1", "horizontalpodautoscalers"),
    "Ingress": ("apis/networking.k8s.io/v1", "ingresses"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Namespace": ("api/v1", "namespaces"),
    "Node": ("api/v1", "nodes"),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "ValidatingWebhookConfiguration": (
        "apis/admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
    ),
}
CLUSTER_SCOPED = {
    "Namespace",
    "Node",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "ValidatingWebhookConfiguration",
}


@dataclass(frozen=True)
class Access:
    """Where an API server is and how it is spoken to."""

    url: str
    verify: ssl.SSLContext
    headers: dict[str, str]

    @classmethod
    def read(cls, kubeconfig: Path) -> "Access":
        """Return the access that a kubeconfig's current context gives."""
        found = Configuration()
        load_kube_config(str(kubeconfig), client_configuration=found)  # type: ignore[no-untyped-call]
        verify = ssl.create_default_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            verify.load_cert_chain(found.cert_file, found.key_file)
        token = found.auth_settings().get("BearerToken", {}).get("value")
        return cls(found.host, verify, {"authorization": token} if token else {})


class Kube:
    """Calls to the API server about the objects of one namespace, and cluster-wide ones."""

    def __init__(self, access: Access, namespace: str = "default") -> None:
        self.access = access
        self.namespace = namespace
        self.http = httpx.Client(
            base_url=access.url, verify=access.verify, headers=access.headers, timeout=PATIENCE
        )
        self._served: dict[str, bool] = {}

    def __enter__(self) -> "Kube":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def path(self, kind: str, name: str = "", sub: str = "", namespace: str | None = None) -> str:
        """Return the URL path of an object, or of its collection."""
        group, plural = RESOURCES[kind]
        if kind == "PodDisruptionBudget" and not self.serves(group):
            group = "apis/policy/v1beta1"
        scope = "" if kind in CLUSTER_SCOPED else f"namespaces/{namespace or self.namespace}/"
        return "/" + "/".join(filter(None, (f"{group}/{scope}{plural}", name, sub)))

    def serves(self, group: str) -> bool:
        """Return whether the cluster serves an API version, e.g. `apis/policy/v1`."""
        if not self._served.get(group):
            self._served[group] = self.http.get(f"/{group}").status_code == 200
        return self._served[group]

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object; None: there is none."""
        answer = self.http.get(self.path(kind, name))
        return None if answer.status_code == 404 else _body(answer)

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind."""
        answer = self.http.get(self.path(kind), params={"labelSelector": selector})
        return list(_body(answer)["items"])

    def create(self, manifest: Object) -> Object:
        """Create an object; an error if it exists."""
        namespace = manifest["metadata"].get("namespace")
        path = self.path(manifest["kind"], namespace=namespace)
        return _body(self.http.post(path, json=manifest))

    def apply(self, manifest: Object, manager: str = "kubectl") -> Object:
        """Server-side apply, taking the fields over."""
        path = self.path(manifest["kind"], manifest["metadata"]["name"])
        return _body(
            self.http.patch(
                path,
                json=manifest,
                params={"fieldManager": manager, "force": "true"},
                headers={"content-type": "application/apply-patch+yaml"},
            )
        )

    def put(self, manifest: Object) -> Object:
        """Create or replace an object; old servers drop the fields that they do not know."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        current = self.get(kind, name)
        if current is None:
            return self.create(manifest)
        version = {"resourceVersion": current["metadata"]["resourceVersion"]}
        body = {**manifest, "metadata": {**manifest["metadata"], **version}}
        return _body(self.http.put(self.path(kind, name), json=body))

    def merge(
        self, kind: str, name: str, patch: Object, sub: str = "", manager: str = "test"
    ) -> Object:
        """Merge-patch an object or a subresource of it."""
        headers = {"content-type": "application/merge-patch+json"}
        path = self.path(kind, name, sub)
        return _body(
            self.http.patch(path, json=patch, headers=headers, params={"fieldManager": manager})
        )

    def scale(self, kind: str, name: str, replicas: int) -> Object:
        """What `kubectl scale` does."""
        return self.merge(kind, name, {"spec": {"replicas": replicas}}, "scale", "kubectl")

    def token(self, account: str) -> str:
        """Return a token of a service account."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = self.path("ServiceAccount", account, "token")
        return str(_body(self.http.post(path, json=request))["status"]["token"])

    def delete(self, kind: str, name: str, grace: int | None = None) -> None:
        """Delete an object, its dependents by garbage collection; fine if there is none."""
        parameters = {} if grace is None else {"gracePeriodSeconds": str(grace)}
        answer = self.http.delete(self.path(kind, name), params=parameters)
        if answer.status_code != 404:
            _body(answer)


def _body(answer: httpx.Response) -> Object:
    if answer.is_error:
        request = f"{answer.request.method} {answer.request.url}"
        raise RuntimeError(f"{request}: {answer.status_code} {answer.text}")
    body: Object = answer.json()
    return body
