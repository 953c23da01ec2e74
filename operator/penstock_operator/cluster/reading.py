"""Stored objects as values. Pure.

An old API server checks less than the types do, and a status may come from another version of the
operator: what cannot be read is told in words, or counts as not there; it is never an accident.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from penstock_contract.api import (
    EnginePool,
    InferenceDeployment,
    InferenceDeploymentStatus,
    ObjectMeta,
)
from penstock_contract.api.pool import EnginePoolStatus
from penstock_contract.api.stored import as_stored
from penstock_operator.manifests import Object
from penstock_operator.validation import InvalidManifest, parse


def read_deployment(raw: Object) -> tuple[InferenceDeployment | None, str]:
    """Return an InferenceDeployment without its status, or None and what is wrong, by field."""
    try:
        found = parse({k: v for k, v in raw.items() if k != "status"}, stored=True)
    except InvalidManifest as error:
        return None, "; ".join(str(problem) for problem in error.problems)
    return (found, "") if isinstance(found, InferenceDeployment) else (None, "kind: not known")


def refreshed(deployment: InferenceDeployment, raw: Object) -> InferenceDeployment:
    """Return a deployment that was read before with the metadata and status of now."""
    metadata = ObjectMeta.model_validate(raw["metadata"])
    return deployment.model_copy(update={"metadata": metadata, "status": read_status(raw)})


def read_status(raw: Object) -> InferenceDeploymentStatus | None:
    """Return an InferenceDeployment's status; None: there is none that this version knows."""
    validate = InferenceDeploymentStatus.model_validate
    try:
        return as_stored(validate, raw["status"]) if "status" in raw else None
    except ValidationError:
        return None


def read_pools(found: Iterable[Object]) -> tuple[dict[str, EnginePool], str]:
    """Return EnginePools by name, and what is wrong with those that cannot be read."""
    pools: dict[str, EnginePool] = {}
    wrong: list[str] = []
    for raw in found:
        name = raw["metadata"]["name"]
        try:
            body = {k: v for k, v in raw.items() if k != "status"}
            pool = as_stored(EnginePool.model_validate, body)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            wrong.append(f"EnginePool {name}: {field}: {first['msg']}; put it right")
        else:
            pools[name] = pool.model_copy(update={"status": _pool_status(raw)})
    return pools, "; ".join(wrong)


def _pool_status(raw: Object) -> EnginePoolStatus | None:
    validate = EnginePoolStatus.model_validate
    try:
        return as_stored(validate, raw["status"]) if "status" in raw else None
    except ValidationError:
        return None
