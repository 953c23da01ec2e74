"""Is what was applied serving yet, will it ever: read from the status that the runtime reports.

Pure. `up` asks again and again until the answer is Ready or Failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock_contract.conditions import ConditionType, Reason

HOPELESS = 3
"""Failures in a row after which waiting longer makes no sense."""
NEEDED = (ConditionType.POOLS_READY, ConditionType.ROLLOUT_COMPLETE)
"""Conditions that say: all workers serve, and all in the revision that was applied."""


@dataclass(frozen=True)
class Ready:
    """Everything that was applied serves, in the applied revision."""


@dataclass(frozen=True)
class Waiting:
    """Not yet; `reason` says for what."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """It will not, without a change; `process` is the one whose log tells why."""

    reason: str
    process: str


Readiness = Ready | Waiting | Failed


def readiness_of(status: Mapping[str, Any] | None, generations: Mapping[str, int]) -> Readiness:
    """Return how far the named InferenceDeployments are.

    Args:
        status: the content of status.json, None before the runtime has written one.
        generations: name → generation that was applied.
    """
    if status is None:
        return Waiting("the runtime is starting")
    items = {item["metadata"]["name"]: item for item in status["items"]}
    for name, generation in generations.items():
        readiness = _readiness_of_one(items.get(name), name, generation)
        if not isinstance(readiness, Ready):
            return readiness
    gateway = status["gateway"]
    if gateway["failuresInARow"] >= HOPELESS and gateway["state"] != "Ready":
        return Failed(f"the gateway {gateway['lastEnd']}", "gateway")
    return Ready() if gateway["state"] == "Ready" else Waiting("the gateway is starting")


def _readiness_of_one(item: Mapping[str, Any] | None, name: str, generation: int) -> Readiness:
    if item is None or item["status"].get("observedGeneration", 0) < generation:
        return Waiting(f"{name} is not planned yet")
    conditions = {condition["type"]: condition for condition in item["status"]["conditions"]}
    unmet = [conditions[kind] for kind in NEEDED if conditions[kind]["status"] != "True"]
    if not unmet:
        return _readiness_of_adapters(conditions.get(ConditionType.ADAPTERS_READY), name, item)
    for failure in item["failures"]:
        if failure["failuresInARow"] >= HOPELESS and not failure["over"]:
            times = f"{failure['failuresInARow']} times in a row"
            return Failed(f"{failure['process']} {failure['lastEnd']}, {times}", failure["process"])
    return Waiting(f"{name}: {unmet[0]['message']}")


def _readiness_of_adapters(
    condition: Mapping[str, Any] | None, name: str, item: Mapping[str, Any]
) -> Readiness:
    if condition is None or condition["status"] == "True":
        return Ready()
    if condition["reason"] == Reason.ADAPTER_FAILED:
        return Failed(f"{name}: {condition['message']}", item["workers"][0]["id"])
    return Waiting(f"{name}: {condition['message']}")
