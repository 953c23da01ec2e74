"""Which adapters come and go while workers serve, and which a worker is made with. Pure.

What is downloaded comes and goes: agents beside the engines bring it. Volumes of a pod, and folders
of its image, are there from its beginning or never; so is everything where a replica spans nodes,
as each of its pods reads adapters for itself.
"""

from penstock_contract.adapters import FETCHED
from penstock_contract.api import EnginePoolSpec, InferenceDeployment, Pool
from penstock_contract.api.engine import Lora
from penstock_contract.api.model import Adapter


def comes_and_goes(adapter: Adapter, pool: Pool | EnginePoolSpec) -> bool:
    """Return whether workers of a pool get an adapter while they serve."""
    return pool.parallelism.nodes == 1 and adapter.uri.startswith(FETCHED)


def at_start(deployment: InferenceDeployment, pool: Pool | EnginePoolSpec) -> InferenceDeployment:
    """Return a deployment as workers of a pool begin: without what comes later, with room for it.

    `spec.engine.lora` says whether there is an agent beside the engine.
    """
    if pool.parallelism.nodes > 1:
        return deployment
    found = deployment.spec.model.adapters
    kept = [adapter for adapter in found if not comes_and_goes(adapter, pool)]
    return _with(deployment, kept, room=len(kept) < len(found))


def all_later(deployment: InferenceDeployment) -> InferenceDeployment:
    """Return a deployment as workers of the local runtime begin: all adapters come later."""
    return _with(deployment, [], room=bool(deployment.spec.model.adapters))


def _with(
    deployment: InferenceDeployment, adapters: list[Adapter], *, room: bool
) -> InferenceDeployment:
    spec = deployment.spec
    lora = spec.engine.lora or (Lora() if room else None)
    changes = {
        "model": spec.model.model_copy(update={"adapters": adapters}),
        "engine": spec.engine.model_copy(update={"lora": lora}),
    }
    return deployment.model_copy(update={"spec": spec.model_copy(update=changes)})
