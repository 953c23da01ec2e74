"""The engine that a worker runs. Pure."""

from collections.abc import Mapping

from penstock_contract.api import EnginePool, EngineType, InferenceDeployment
from penstock_operator.manifests.engine import EngineContainer
from penstock_operator.manifests.penstock import penstock_engine
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.vllm import vllm_engine

_ENGINES = {EngineType.PENSTOCK: penstock_engine, EngineType.VLLM: vllm_engine}


def engine_container(
    deployment: InferenceDeployment,
    pool: EnginePool,
    path: str,
    settings: Settings,
    adapters: Mapping[str, str],
    draft: str = "",
) -> EngineContainer:
    """Return the engine's part of a worker's container.

    Args:
        deployment: its desired state.
        pool: that the worker belongs to.
        path: where the model lies.
        settings: of the installation.
        adapters: where each lies, by its name.
        draft: where the draft model or head lies; empty without one.
    """
    made = _ENGINES[deployment.spec.engine.type]
    return made(deployment, pool, path, settings, adapters, draft)
