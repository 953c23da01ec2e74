"""What stands around the workers: Service, PodDisruptionBudget, NetworkPolicy, monitors."""

from penstock_contract import adapters, handoff
from penstock_contract.api import EnginePool, EngineType, InferenceDeployment
from penstock_contract.labels import COMPONENT, DEPLOYMENT
from penstock_operator.manifests.engine import PORT, is_split
from penstock_operator.manifests.objects import (
    Object,
    deployment_object,
    pool_object,
    pool_selector,
)
from penstock_operator.manifests.settings import Settings

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label that every namespace bears (Kubernetes 1.21 and later)."""


def pool_objects(
    pool: EnginePool, settings: Settings, engine: EngineType = EngineType.PENSTOCK
) -> dict[str, Object]:
    """Return, by kind, what a pool needs beside its workers."""
    return {
        "ServiceAccount": _service_account(pool, settings),
        "Service": _headless_service(pool),
        "PodDisruptionBudget": _disruption_budget(pool),
        "NetworkPolicy": _network_policy(pool, settings, engine),
    }


def _service_account(pool: EnginePool, settings: Settings) -> Object:
    """What images are pulled with is said here, so that changing it needs no new revision."""
    secrets = [{"name": name} for name in settings.image_pull_secrets]
    more = {"imagePullSecrets": secrets} if secrets else {}  # none: those of others stay
    return pool_object("v1", "ServiceAccount", pool, automountServiceAccountToken=False, **more)


def deployment_objects(deployment: InferenceDeployment, settings: Settings) -> dict[str, Object]:
    """Return, by kind, what an InferenceDeployment needs beside its pools."""
    return {
        "Service": _endpoint(deployment, settings),
        "PodMonitor": _pod_monitor(deployment),
    }


def _headless_service(pool: EnginePool) -> Object:
    spec = {
        "clusterIP": "None",
        "selector": pool_selector(pool),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    return pool_object("v1", "Service", pool, spec=spec)


def _disruption_budget(pool: EnginePool) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": pool_selector(pool)}}
    return pool_object("policy/v1", "PodDisruptionBudget", pool, spec=spec)


def _network_policy(pool: EnginePool, settings: Settings, engine: EngineType) -> Object:
    """Only gateway, operator and Prometheus reach a worker; its KV, only others of its model."""
    system = {"matchLabels": {NAMESPACE_NAME: settings.system_namespace}}
    peers: list[Object] = [
        {"namespaceSelector": system, "podSelector": {"matchLabels": {COMPONENT: component}}}
        for component in ("gateway", "operator")
    ]
    peers += [
        {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}}
        for name in settings.metrics_namespaces
    ]
    workers = {"podSelector": {"matchLabels": {DEPLOYMENT: pool.spec.deployment}}}
    # The agent's port too: adapters may come to pools that began without.
    ports = [{"protocol": "TCP", "port": port} for port in (PORT, adapters.PORT)]
    ingress: list[Object] = [{"from": peers, "ports": ports}]
    if is_split(pool):
        # vLLMs agree at this port on others, over which the KV itself goes.
        kv = [{"protocol": "TCP", "port": handoff.PORT}] if engine is EngineType.PENSTOCK else []
        ingress.append({"from": [workers], **({"ports": kv} if kv else {})})
    spec = {
        "podSelector": {"matchLabels": pool_selector(pool)},
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    }
    return pool_object("networking.k8s.io/v1", "NetworkPolicy", pool, spec=spec)


def _endpoint(deployment: InferenceDeployment, settings: Settings) -> Object:
    """Inside its namespace, `http://NAME/v1` is the gateway."""
    parts = (settings.gateway_service, settings.system_namespace, "svc", settings.cluster_domain)
    spec = {"type": "ExternalName", "externalName": ".".join(parts)}
    return deployment_object("v1", "Service", deployment, spec=spec)


def _pod_monitor(deployment: InferenceDeployment) -> Object:
    selector = {DEPLOYMENT: deployment.metadata.name, COMPONENT: "worker"}
    spec = {
        "selector": {"matchLabels": selector},
        "podMetricsEndpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
    }
    return deployment_object("monitoring.coreos.com/v1", "PodMonitor", deployment, spec=spec)
