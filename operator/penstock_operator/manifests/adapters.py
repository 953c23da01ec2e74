"""How LoRA adapters get into a pod.

Those of volumes and images are there from its beginning, as models are, each in a folder of its
own. Those that are downloaded come and go: a container beside the engine, the agent, brings them,
and sees the Secret, which the engine never does. Where a replica spans nodes there is no agent, and
init containers download.
"""

from penstock_contract.adapters import AGENT, FETCHED, PORT, READY_PATH, WantedAdapter
from penstock_contract.api import EnginePool, EngineType, InferenceDeployment
from penstock_contract.worker_token import ENVIRONMENT, SECRET_KEY
from penstock_operator.adapters import at_start, comes_and_goes
from penstock_operator.manifests.engine import PORT as ENGINE_PORT
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.sources import (
    CREDENTIALS,
    Source,
    Wanted,
    cached,
    credentials,
    downloading,
    fetched_folder,
    placed,
)
from penstock_operator.manifests.unsupported import Unsupported

ADAPTERS = "/adapters"
CACHE = f"{ADAPTERS}/cache"
TOLD = "/tmp/adapters.json"  # noqa: S108 - the pod's own, there as long as the pod
"""Where an agent keeps what it was told."""
ADAPTER_DOWNLOAD = "download-adapter-"
"""What the names of containers that fetch an adapter begin with; its place in the list follows."""


def wanted_adapters(deployment: InferenceDeployment) -> dict[str, Wanted]:
    """Return the files of a deployment's adapters, by their names."""
    found: dict[str, Wanted] = {}
    for index, adapter in enumerate(deployment.spec.model.adapters):
        fetched = adapter.uri.startswith(FETCHED)
        found[adapter.name] = Wanted(
            adapter.uri,
            adapter.revision,
            f"spec.model.adapters[{index}]",
            AGENT if fetched else f"adapter-{index}",
            CACHE if fetched else f"{ADAPTERS}/{index}",
        )
    return found


def adapter_sources(deployment: InferenceDeployment, pool: EnginePool) -> dict[str, Source]:
    """Return how the adapters that workers begin with get into their pods, by their names.

    Raises:
        Unsupported: one of them not from there, in a cluster.
    """
    wanted = _mounted(deployment, pool)
    return {name: placed(files, deployment, pool) for name, files in wanted.items()}


def later_adapters(
    deployment: InferenceDeployment, pool: EnginePool
) -> tuple[tuple[WantedAdapter, ...], dict[str, str]]:
    """Return what agents of a pool are to bring, and by name why others cannot be brought.

    One whose URI or revision cannot be part of a path keeps no other away.
    """
    wanted = wanted_adapters(deployment)
    found, refused = [], {}
    for adapter in deployment.spec.model.adapters:
        name, uri, revision = adapter.name, adapter.uri, adapter.revision
        if not comes_and_goes(adapter, pool.spec):
            continue
        try:
            folder = fetched_folder(wanted[name])
        except Unsupported as error:
            refused[name] = str(error)
            continue
        found.append(WantedAdapter(name=name, uri=uri, revision=revision, folder=folder))
    return tuple(found), refused


def adapter_cache(deployment: InferenceDeployment, pool: EnginePool) -> list[Source]:
    """Return the volume that the agent fills and the engine reads; nothing without an agent."""
    if not has_agent(deployment, pool):
        return []
    return [Source(CACHE, {"name": AGENT, **cached(deployment, pool)}, CACHE)]


def has_agent(deployment: InferenceDeployment, pool: EnginePool) -> bool:
    """Return whether adapters of a pool's workers come and go."""
    lora = at_start(deployment, pool.spec).spec.engine.lora
    return lora is not None and pool.spec.parallelism.nodes == 1


def adapter_agents(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> list[Object]:
    """Return the container that keeps the engine's adapters, if there is to be one."""
    if not has_agent(deployment, pool):
        return []
    source = Source(CACHE, {"name": AGENT}, CACHE)
    # Whichever of them an adapter needs: what lacks, its message says.
    keys = tuple(dict.fromkeys(key for both in CREDENTIALS.values() for key in sum(both, ())))
    secret = credentials(deployment.spec.model.secret_ref, (), keys)
    container = downloading(AGENT, source, pool, settings, [*secret, *_token(settings)])
    flags = ["--evict"] if deployment.spec.model.cache is None else []
    flags += ["--by-name"] if deployment.spec.engine.type is EngineType.VLLM else []
    return [
        {
            **container,
            "command": ["penstock-worker", "adapters"],
            "args": [
                "--engine", f"http://127.0.0.1:{ENGINE_PORT}",
                "--into", CACHE,
                "--told", TOLD,
                "--host", "0.0.0.0",
                "--port", str(PORT),
                *flags,
            ],
            "ports": [{"name": AGENT, "containerPort": PORT, "protocol": "TCP"}],
            # A worker is sent requests when gateways know which adapters it has.
            "readinessProbe": {
                "httpGet": {"path": READY_PATH, "port": AGENT},
                "periodSeconds": 1,
                "failureThreshold": 1,
            },
            "livenessProbe": {
                "tcpSocket": {"port": AGENT},
                "periodSeconds": 10,
                "failureThreshold": 6,
            },
            "resources": {
                "limits": {"cpu": "1", "memory": "512Mi"},
                "requests": {"cpu": "50m", "memory": "128Mi"},
            },
        }
    ]  # fmt: skip


def adapter_downloads(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> list[Object]:
    """Return the init containers that download adapters."""
    found = []
    for index, files in enumerate(_mounted(deployment, pool).values()):
        source = placed(files, deployment, pool)
        if source.arguments:
            # The Secret is the model's first of all: what an adapter lacks, its download says.
            keys = sum(CREDENTIALS[files.scheme], ())
            secret = credentials(deployment.spec.model.secret_ref, (), keys)
            name = f"{ADAPTER_DOWNLOAD}{index}"
            container = downloading(name, source, pool, settings, secret)
            found.append({**container, "args": [*container["args"], "--adapter"]})
    return found


def local_adapters(deployment: InferenceDeployment) -> dict[str, str]:
    """Return the folders of adapters that are on this machine already, by their names."""
    found = deployment.spec.model.adapters
    return {adapter.name: adapter.uri.removeprefix("file://") for adapter in found}


def _mounted(deployment: InferenceDeployment, pool: EnginePool) -> dict[str, Wanted]:
    """Return the files of adapters that a pool's workers begin with."""
    kept = {adapter.name for adapter in at_start(deployment, pool.spec).spec.model.adapters}
    return {name: files for name, files in wanted_adapters(deployment).items() if name in kept}


def _token(settings: Settings) -> list[Object]:
    if not settings.worker_token_secret:
        return []
    key = {"name": settings.worker_token_secret, "key": SECRET_KEY}
    return [{"name": ENVIRONMENT, "valueFrom": {"secretKeyRef": key}}]
