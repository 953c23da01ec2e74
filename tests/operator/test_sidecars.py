"""A worker's state is its own container's; what ails the others is told, and rolls nothing back."""

from typing import Any

import pytest

from penstock_contract.labels import POOL, ROLLOUT_HASH
from penstock_operator.cluster.observed import Pod, pod

Object = dict[str, Any]
LOOPING = {"waiting": {"reason": "CrashLoopBackOff"}}
UNPULLED = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def container(name: str, state: Object, *, ready: bool = False, restarts: int = 0) -> Object:
    return {
        "name": name,
        "ready": ready,
        "started": ready,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": {"exitCode": 3}} if restarts else {},
    }


def seen(*containers: Object, first: tuple[Object, ...] = (), initialized: bool = True) -> Pod:
    ready = all(one["ready"] for one in (*containers, *first))
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Initialized", "status": str(initialized)},
        {"type": "Ready", "status": str(ready), "reason": "" if ready else "ContainersNotReady"},
    ]
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": conditions,
        "containerStatuses": list(containers),
        "initContainerStatuses": list(first),
    }
    metadata = {"uid": "u", "name": "x", "resourceVersion": "1"}
    metadata["labels"] = {POOL: "default", ROLLOUT_HASH: "r"}  # type: ignore[assignment]
    return pod({"metadata": metadata, "status": status})


@pytest.mark.parametrize("state", [LOOPING, UNPULLED])
@pytest.mark.parametrize("first", [True, False])
def test_a_worker_serves_whatever_its_sidecars_do(state: Object, first: bool) -> None:
    log = container("log", state, restarts=4 if state is LOOPING else 0)
    own = container("worker", RUNNING, ready=True)
    found = seen(own, first=(log,)) if first else seen(log, own)
    assert found.ready
    assert (found.failing, found.waiting) == ("", "")
    assert found.beside.startswith("log")
    assert not found.whole


@pytest.mark.parametrize("proxy", [True, False])
def test_a_worker_that_loads_is_not_ready_with_a_proxy_that_is(proxy: bool) -> None:
    found = seen(container("proxy", RUNNING, ready=proxy), container("worker", RUNNING))
    assert not found.ready
    assert found.beside == ""


def test_a_worker_that_crashes_is_told_first() -> None:
    own = container("worker", LOOPING, restarts=5)
    found = seen(container("log", LOOPING, restarts=9), own)
    assert found.failing == "worker exited with code 3, 5 times"
    assert found.beside == "log exited with code 3, 9 times"
    assert not found.ready


def test_what_keeps_a_worker_from_its_start_is_a_failure_of_its_own() -> None:
    own = container("worker", {"waiting": {"reason": "PodInitializing"}})
    proxy = container("proxy", LOOPING, restarts=3)
    found = seen(own, first=(proxy,), initialized=False)
    assert found.failing == "proxy exited with code 3, 3 times"
    assert found.beside == ""
