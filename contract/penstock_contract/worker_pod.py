"""Which container of a pod is the worker, and what it says of itself. Pure.

Others may stand beside it, those of a pool's template or what a mesh has put there: that they run,
wait or end is not the worker's state.
"""

from collections.abc import Mapping
from typing import Any, Final

from penstock_contract.adapters import AGENT

CONTAINER: Final = "worker"
"""Name of the container in which the engine runs."""
OTHERS_NOT_READY: Final = "ContainersNotReady"
"""Reason of a pod's `Ready` condition, Kubernetes' own: a container is not ready, nothing else."""

_NEEDED: Final = (CONTAINER, AGENT)

Object = Mapping[str, Any]


def worker_status(pod: Object) -> Object:
    """Return the status of the worker's container; empty: there is none yet."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((one for one in statuses if one.get("name") == CONTAINER), {})


def is_started(pod: Object) -> bool:
    """Return whether the worker has been able to answer: its startup probe has succeeded."""
    return bool(worker_status(pod).get("started"))


def is_ready(pod: Object) -> bool:
    """Return whether the worker is ready, whatever becomes of the containers beside it.

    The condition is what a node that does not answer is told by: the worker's own status then
    stays what it was.
    """
    conditions = pod.get("status", {}).get("conditions") or []
    ready: Object = next((one for one in conditions if one["type"] == "Ready"), {})
    if ready.get("status") == "True":
        return True
    others = ready.get("reason") == OTHERS_NOT_READY
    return others and _needed_are_ready(pod)


def _needed_are_ready(pod: Object) -> bool:
    """The agent of its adapters is one with the worker: it says when gateways know them."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    needed = {one["name"]: one.get("ready") for one in statuses if one.get("name") in _NEEDED}
    return CONTAINER in needed and all(needed.values())
