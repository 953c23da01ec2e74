"""The Kubernetes objects of a pool. Pure: an InferenceDeployment and an EnginePool in, dicts out.

Pods meet the `restricted` Pod Security Standard. The local runtime runs the very command line that
is planned here, so a pod and a local process never differ in more than their address.
"""

from math import floor
from typing import Any

from penstock_contract.api import EnginePool, EngineType, InferenceDeployment, Resources, Role
from penstock_contract.api.base import quantity, seconds
from penstock_contract.api.engine import Dtype
from penstock_contract.labels import (
    COMPONENT,
    DEPLOYMENT,
    INSTANCE,
    MANAGED_BY,
    NAME,
    POOL,
    ROLE,
    ROLLOUT_HASH,
    SERVED_MODEL,
)

PORT = 8000
USER = 10001
MODELS = "/models"
DEFAULT_IMAGE = "ghcr.io/penstock-dev/penstock-worker:0.1.0"
DRAIN_MARGIN = 10.0
"""Seconds that a pod gets beyond its drain timeout, to end in order."""

Object = dict[str, Any]


class Unsupported(Exception):
    """The spec asks for something that this version does not build; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def pool_objects(
    deployment: InferenceDeployment, pool: EnginePool, system_namespace: str = "penstock-system"
) -> dict[str, Object]:
    """Return the objects of a pool by kind.

    Args:
        deployment: what the pool belongs to.
        pool: the pool.
        system_namespace: where gateway and operator run; nobody else reaches the workers.

    Raises:
        Unsupported: the engine, one of its settings or the model source is not built yet.
    """
    return {
        "ServiceAccount": _object("v1", "ServiceAccount", pool, automountServiceAccountToken=False),
        "Deployment": _deployment(deployment, pool),
        "Service": _service(pool),
        "PodDisruptionBudget": _disruption_budget(pool),
        "NetworkPolicy": _network_policy(pool, system_namespace),
    }


def worker_container(deployment: InferenceDeployment, pool: EnginePool) -> Object:
    """Return the container that runs a worker; the local runtime runs its command line.

    Raises:
        Unsupported: the worker of this version cannot do what is asked of it.
    """
    _refuse_unsupported(deployment, pool)
    return _container(deployment, pool)


def worker_arguments(deployment: InferenceDeployment) -> list[str]:
    """Return the worker's command line, without its address and model path."""
    engine = deployment.spec.engine
    arguments: list[str] = []
    for name in (deployment.served_name, *deployment.spec.model.aliases):
        arguments += ["--served-model-name", name]
    arguments += [
        "--dtype", str(engine.dtype),
        "--block-size", str(engine.block_size),
        "--max-num-seqs", str(engine.max_num_seqs),
        "--max-num-batched-tokens", str(engine.max_num_batched_tokens),
        "--drain-timeout", deployment.spec.drain.timeout,
    ]  # fmt: skip
    if engine.max_model_len is not None:
        arguments += ["--max-model-len", str(engine.max_model_len)]
    if not engine.prefix_caching:
        arguments.append("--no-enable-prefix-caching")
    return [*arguments, *engine.extra_args]


def _refuse_unsupported(deployment: InferenceDeployment, pool: EnginePool) -> None:
    engine, parallelism = deployment.spec.engine, pool.spec.parallelism
    for refused, field, fix in (
        (engine.type is not EngineType.PENSTOCK, "spec.engine.type", "use Penstock"),
        (engine.dtype is Dtype.FLOAT16, "spec.engine.dtype", "use auto, float32 or bfloat16"),
        (bool(deployment.spec.model.adapters), "spec.model.adapters", "leave it out"),
        (
            parallelism.tensor * parallelism.pipeline > 1,
            f"spec.pools[{pool.spec.pool}].parallelism",
            "use 1",
        ),
    ):
        if refused:
            raise Unsupported(field, f"not available in this version; {fix}")


def _deployment(deployment: InferenceDeployment, pool: EnginePool) -> Object:
    rollout = deployment.spec.rollout
    spec: Object = {
        "replicas": pool.spec.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": _selector(pool)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": rollout.max_surge,
                "maxUnavailable": rollout.max_unavailable,
            },
        },
        "template": _pod_template(deployment, pool),
    }
    return _object("apps/v1", "Deployment", pool, spec=spec)


def _pod_template(deployment: InferenceDeployment, pool: EnginePool) -> Object:
    template = pool.spec.template
    volume = _model_volume(deployment)
    drain = seconds(deployment.spec.drain.timeout)
    spec: Object = {
        "serviceAccountName": pool.metadata.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(drain + DRAIN_MARGIN),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [worker_container(deployment, pool)],
        "volumes": [volume, {"name": "tmp", "emptyDir": {}}],
    }
    for field, value in (
        ("nodeSelector", template.node_selector),
        ("tolerations", template.tolerations),
        ("affinity", template.affinity),
        ("priorityClassName", template.priority_class_name),
        ("runtimeClassName", template.runtime_class_name),
    ):
        if value:
            spec[field] = value
    labels = {**template.labels, **_labels(pool), ROLLOUT_HASH: pool.spec.rollout_hash}
    annotations = {**template.annotations, SERVED_MODEL: deployment.served_name}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _container(deployment: InferenceDeployment, pool: EnginePool) -> Object:
    environment = {**_threads(pool.spec.resources), **pool.spec.template.env}
    return {
        "name": "worker",
        "image": deployment.spec.engine.image or DEFAULT_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["penstock-worker"],
        "args": [
            "--model", _model_path(deployment),
            "--host", "0.0.0.0",
            "--port", str(PORT),
            *worker_arguments(deployment),
        ],
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": _resources(pool.spec.resources),
        # Loading a large model takes minutes; only then does liveness begin to count.
        "startupProbe": {**_health(), "periodSeconds": 2, "failureThreshold": 900},
        "readinessProbe": {**_health(), "periodSeconds": 2, "failureThreshold": 1},
        "livenessProbe": {
            "tcpSocket": {"port": "http"},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "model", "mountPath": MODELS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
    }  # fmt: skip


def _model_volume(deployment: InferenceDeployment) -> Object:
    """Return the volume that holds the model; its folder is mounted at /models."""
    uri = deployment.spec.model.uri
    scheme, _, rest = uri.partition("://")
    if scheme == "pvc":
        claim = rest.partition("/")[0]
        return {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    if scheme == "file":
        raise Unsupported("spec.model.uri", "file:// is for `penstock up`; in a cluster use pvc://")
    raise Unsupported("spec.model.uri", f"{scheme}:// is not available in this version; use pvc://")


def _model_path(deployment: InferenceDeployment) -> str:
    """Return where the container finds the model: `pvc://claim/a/b` is `/models/a/b`."""
    path = deployment.spec.model.uri.partition("://")[2].partition("/")[2]
    return f"{MODELS}/{path}".rstrip("/")


def _resources(resources: Resources) -> Object:
    limits = {name: str(value) for name, value in resources.limits.items()}
    requests = {name: str(value) for name, value in resources.requests.items()}
    return {"limits": limits, "requests": {**limits, **requests}}


def _threads(resources: Resources) -> dict[str, str]:
    """Return thread counts for the CPU limit: more threads than cores would be throttled."""
    cpu = resources.limits.get("cpu")
    return {} if cpu is None else {"OMP_NUM_THREADS": str(max(1, floor(quantity(cpu))))}


def _health() -> Object:
    return {"httpGet": {"path": "/health", "port": "http"}}


def _service(pool: EnginePool) -> Object:
    spec = {
        "clusterIP": "None",
        "selector": _selector(pool),
        "publishNotReadyAddresses": False,
        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
    }
    return _object("v1", "Service", pool, spec=spec)


def _disruption_budget(pool: EnginePool) -> Object:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(pool)}}
    return _object("policy/v1", "PodDisruptionBudget", pool, spec=spec)


def _network_policy(pool: EnginePool, system_namespace: str) -> Object:
    """Only the gateway, the operator and other workers of the deployment reach a worker."""
    system = {"matchLabels": {"kubernetes.io/metadata.name": system_namespace}}
    peers: list[Object] = [
        {"namespaceSelector": system, "podSelector": {"matchLabels": {COMPONENT: component}}}
        for component in ("gateway", "operator")
    ]
    peers += [
        {"podSelector": {"matchLabels": {DEPLOYMENT: pool.spec.deployment}}},
    ]
    spec = {
        "podSelector": {"matchLabels": _selector(pool)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": PORT}]}],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", pool, spec=spec)


def _object(api_version: str, kind: str, pool: EnginePool, **content: Any) -> Object:
    metadata = {
        "name": pool.metadata.name,
        "namespace": pool.metadata.namespace,
        "labels": _labels(pool),
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _selector(pool: EnginePool) -> dict[str, str]:
    return {DEPLOYMENT: pool.spec.deployment, POOL: pool.spec.pool}


def _labels(pool: EnginePool) -> dict[str, str]:
    role: Role = pool.spec.role
    return {
        NAME: "penstock",
        INSTANCE: pool.spec.deployment,
        COMPONENT: "worker",
        MANAGED_BY: "penstock",
        ROLE: str(role),
        **_selector(pool),
    }
