"""How LoRA adapters get into a pod: as models do, each into a folder of its own."""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.sources import (
    CREDENTIALS,
    Source,
    Wanted,
    credentials,
    downloading,
    placed,
)

ADAPTERS = "/adapters"
ADAPTER_DOWNLOAD = "download-adapter-"
"""What the names of containers that fetch an adapter begin with; its place in the list follows."""


def wanted_adapters(deployment: InferenceDeployment) -> dict[str, Wanted]:
    """Return the files of a deployment's adapters, by their names."""
    found: dict[str, Wanted] = {}
    for index, adapter in enumerate(deployment.spec.model.adapters):
        fetched = adapter.uri.startswith(tuple(f"{scheme}://" for scheme in CREDENTIALS))
        found[adapter.name] = Wanted(
            adapter.uri,
            adapter.revision,
            f"spec.model.adapters[{index}]",
            "adapters" if fetched else f"adapter-{index}",
            f"{ADAPTERS}/cache" if fetched else f"{ADAPTERS}/{index}",
        )
    return found


def adapter_sources(deployment: InferenceDeployment, pool: EnginePool) -> dict[str, Source]:
    """Return how a deployment's adapters get into the pods of a pool, by their names.

    Raises:
        Unsupported: one of them not from there, in a cluster.
    """
    wanted = wanted_adapters(deployment)
    return {name: placed(files, deployment, pool) for name, files in wanted.items()}


def adapter_downloads(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> list[Object]:
    """Return the init containers that download a deployment's adapters."""
    found = []
    wanted = wanted_adapters(deployment).values()
    for index, files in enumerate(wanted):
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
