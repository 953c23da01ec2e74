"""What `/v1/models` tells of models, by each name that clients may use. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from penstock_contract.api.engine import Task
from penstock_contract.fleet import FleetModel

PATH: Final = "/v1/models"


def listed(served: Mapping[str, FleetModel]) -> dict[str, Any]:
    """Return the list of some models, by name."""
    return {"object": "list", "data": [card(name, model) for name, model in served.items()]}


def card(name: str, model: FleetModel) -> dict[str, Any]:
    """Return what is told of a model by one of its names."""
    found = {"id": name, "object": "model", "created": model.created, "owned_by": "penstock"}
    if model.task not in (Task.AUTO, Task.GENERATE):
        found["task"] = model.task.lower()
    return {**found, "parent": model.name} if name in model.adapters else found
