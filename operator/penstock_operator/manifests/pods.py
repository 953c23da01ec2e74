"""The pod of a worker, and its container: what meets the `restricted` Pod Security Standard."""

from collections.abc import Iterable, Mapping
from math import floor

from penstock_contract.api import EnginePool, InferenceDeployment, Resources
from penstock_contract.api.base import quantity, seconds
from penstock_contract.labels import ADAPTERS, ROLLOUT_HASH, SERVED_MODEL
from penstock_contract.worker_pod import CONTAINER
from penstock_contract.worker_token import SECRET_KEY
from penstock_operator.adapters import at_start
from penstock_operator.manifests.adapters import (
    adapter_agents,
    adapter_cache,
    adapter_downloads,
    adapter_sources,
    local_adapters,
)
from penstock_operator.manifests.additions import (
    as_in_a_pod,
    confined,
    initial,
    overlay,
    pod_security,
    sharing,
)
from penstock_operator.manifests.claims import one_volume_per_claim
from penstock_operator.manifests.collisions import refuse_clashes
from penstock_operator.manifests.draft import draft_download, draft_source, local_draft
from penstock_operator.manifests.engine import EngineContainer
from penstock_operator.manifests.engines import engine_container
from penstock_operator.manifests.objects import Object, pool_labels
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.sources import MODELS, Source, download, source
from penstock_operator.manifests.tiers import tier_mount, tier_request, tier_volume
from penstock_operator.manifests.unsupported import refuse_unsupported

DRAIN_MARGIN = 10.0
"""Seconds that a pod gets beyond its drain timeout, to end in order."""
LOADING = 1800
"""Seconds that a worker gets to load its model and generate its first token."""
_POD_IP = {"fieldRef": {"fieldPath": "status.podIP"}}
_TMP = "/tmp"  # noqa: S108 - the container's own


def worker_container(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings | None = None
) -> Object:
    """Return the container that runs a worker; the local runtime runs its command line.

    Raises:
        Unsupported: the engine of this version cannot do what is asked of it.
    """
    refuse_unsupported(deployment, pool)
    refuse_clashes(deployment, pool)
    pool = _on_one_machine(pool)
    path = MODELS  # the local runtime puts its own in its place
    settings = settings or Settings()
    adapters, draft = local_adapters(deployment), local_draft(deployment, pool)
    engine = engine_container(deployment, pool, path, settings, adapters, draft)
    return _container(pool, engine, settings, [Source(path, {"name": "model"})])


def _on_one_machine(pool: EnginePool) -> EnginePool:
    """Return the pool with replicas that span one node, as here is but one."""
    over = pool.spec.parallelism.model_copy(update={"nodes": 1})
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"parallelism": over})})


def pod_template(deployment: InferenceDeployment, pool: EnginePool, settings: Settings) -> Object:
    """Return the pod template of a pool's wanted revision.

    Raises:
        Unsupported: the spec asks for what this version does not build.
    """
    refuse_unsupported(deployment, pool)
    refuse_clashes(deployment, pool)
    template, found = pool.spec.template, source(deployment, pool)
    adapters, draft = adapter_sources(deployment, pool), draft_source(deployment, pool)
    paths = {name: one.path for name, one in adapters.items()}
    guess = draft.path if draft is not None else ""
    beginning = at_start(deployment, pool.spec)
    engine = engine_container(beginning, pool, found.path, settings, paths, guess)
    cache = adapter_cache(deployment, pool)
    sources = [found, *adapters.values(), *cache, *filter(None, [draft])]
    agents = [
        sharing({**one, "securityContext": confined(template)}, template)
        for one in adapter_agents(deployment, pool, settings)
    ]
    fetch = [
        *filter(None, [download(deployment, pool, settings)]),
        *filter(None, [draft_download(deployment, pool, settings)]),
        *adapter_downloads(deployment, pool, settings),
    ]
    spec: Object = {
        **_account(deployment, pool, settings),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(
            seconds(deployment.spec.drain.timeout) + DRAIN_MARGIN
        ),
        "securityContext": pod_security(template),
        "containers": [_container(pool, engine, settings, sources), *agents],
        "volumes": [*_volumes(sources, engine), *map(as_in_a_pod, template.volumes)],
        **overlay(pool),
    }
    fetch = [sharing({**one, "securityContext": confined(template)}, template) for one in fetch]
    if before := [*initial(template), *fetch]:
        spec["initContainers"] = before
    labels = {**template.labels, **pool_labels(pool), ROLLOUT_HASH: pool.spec.rollout_hash}
    annotations = {**template.annotations, SERVED_MODEL: deployment.served_name}
    annotations[ADAPTERS] = ",".join(sorted(adapters))  # the operator adds what comes later
    metadata = {"labels": labels, "annotations": annotations}
    return {"metadata": metadata, "spec": one_volume_per_claim(spec)}


def _account(deployment: InferenceDeployment, pool: EnginePool, settings: Settings) -> Object:
    """Return whom a pod runs as; an account of the user's knows no secrets of the installation."""
    name = deployment.spec.model.service_account_name
    if name is None:
        return {"serviceAccountName": pool.metadata.name}
    secrets = [{"name": one} for one in settings.image_pull_secrets]
    return {"serviceAccountName": name, **({"imagePullSecrets": secrets} if secrets else {})}


def _container(
    pool: EnginePool, engine: EngineContainer, settings: Settings, sources: Iterable[Source]
) -> Object:
    limits, template = pool.spec.resources, pool.spec.template
    environment = {**_threads(limits), **engine.environment, **template.env}
    asked = dict(limits.requests)
    if engine.tier is not None:
        asked |= tier_request(engine.tier, limits)
    container: Object = {
        "name": CONTAINER,
        "image": engine.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(engine.command),
        "args": list(engine.arguments),
        "env": [
            *({"name": name, "value": value} for name, value in sorted(environment.items())),
            *({"name": name, "valueFrom": _POD_IP} for name in engine.own_address),
            *_token(engine, settings),
        ],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in engine.ports.items()
        ],
        "resources": _resources(limits, asked),
        **_probes(engine),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": confined(template, template.container_security_context),
        "volumeMounts": _mounts(sources, engine),
    }
    return sharing(container, template)


def _probes(engine: EngineContainer) -> Object:
    return {
        # Only when it has succeeded do the others begin.
        "startupProbe": {**engine.probe, "periodSeconds": 2, "failureThreshold": LOADING // 2},
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": "http"},
            "periodSeconds": 2,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "tcpSocket": {"port": "http"},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
    }


def _mounts(sources: Iterable[Source], engine: EngineContainer) -> list[Object]:
    """Return where the volumes of `_volumes` are seen."""
    seen = {one.volume["name"]: one.mount for one in sources if one.volume is not None}
    mounts: list[Object] = [
        {"name": name, "mountPath": mount, "readOnly": True} for name, mount in seen.items()
    ]
    mounts.append({"name": "tmp", "mountPath": _TMP})
    if engine.tier is not None:
        mounts.append(tier_mount())
    if engine.shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - NCCL's
    return mounts


def _token(engine: EngineContainer, settings: Settings) -> list[Object]:
    if not settings.worker_token_secret:
        return []
    key = {"name": settings.worker_token_secret, "key": SECRET_KEY}
    return [{"name": engine.token_variable, "valueFrom": {"secretKeyRef": key}}]


def _volumes(sources: Iterable[Source], engine: EngineContainer) -> list[Object]:
    """Return each volume once: what is downloaded shares one."""
    seen = {one.volume["name"]: one.volume for one in sources if one.volume is not None}
    volumes: list[Object] = [*seen.values(), {"name": "tmp", "emptyDir": {}}]
    if engine.tier is not None:
        volumes.append(tier_volume(engine.tier))
    if engine.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return volumes


def _resources(wanted: Resources, asked: Mapping[str, str | int]) -> Object:
    limits = {name: str(value) for name, value in wanted.limits.items()}
    requests = {name: str(value) for name, value in asked.items()}
    found = {"limits": limits, "requests": {**limits, **requests}}
    claims = [as_in_a_pod(one) for one in wanted.claims]
    return {**found, "claims": claims} if claims else found


def _threads(resources: Resources) -> dict[str, str]:
    """Return thread counts for the CPU limit: more threads than cores would be throttled."""
    cpu = resources.limits.get("cpu")
    return {} if cpu is None else {"OMP_NUM_THREADS": str(max(1, floor(quantity(cpu))))}
