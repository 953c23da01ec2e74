"""What a download says when it fails is what the condition says, as a kubelet reports it."""

from typing import Any

import pytest

from penstock_operator.cluster.observed import pod

LOG = (
    "penstock-worker fetch: fetching 5 files, 15.0 GiB, version abc\n"
    "penstock-worker fetch: hf://org/m is gated: accept its terms at https://huggingface.co/org/m\n"
)
ENDED = {"exitCode": 1, "reason": "Error", "message": LOG}


def seen(state: dict[str, Any], **more: Any) -> Any:
    init = {
        "name": "download",
        "ready": False,
        "restartCount": 3,
        "state": state,
        **more,
    }
    return pod(
        {
            "metadata": {"uid": "1", "name": "w", "resourceVersion": "1"},
            "status": {"initContainerStatuses": [init]},
        }
    )


def test_a_download_that_keeps_failing_is_quoted() -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    found = seen(waiting, lastState={"terminated": ENDED})
    assert found.failing == (
        "download exited with code 1, 3 times: penstock-worker fetch: hf://org/m is gated: "
        "accept its terms at https://huggingface.co/org/m"
    )


def test_a_secret_that_is_not_there_is_named() -> None:
    words = 'secret "hf-token" not found'
    found = seen({"waiting": {"reason": "CreateContainerConfigError", "message": words}})
    assert found.waiting == f"download: CreateContainerConfigError: {words}"


def test_a_crash_loop_is_told_while_it_is_tried_once_more() -> None:
    again = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    ended = {"terminated": ENDED}
    assert "exited with code 1, 3 times" in seen(again, lastState=ended, started=False).failing
    assert seen(again, lastState=ended, started=True).failing == "", "it has recovered"
    assert seen(again, lastState=ended, started=False, restartCount=1).failing == ""


KILLED = {
    "restartCount": 1,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "starting"}},
}


@pytest.mark.parametrize("name", ["download", "download-draft", "download-adapter-0", "adapters"])
def test_no_limit_of_ours_that_is_fixed_is_to_be_raised(name: str) -> None:
    assert killed(name) == (
        f"{name} ran out of memory, once: no field raises its limit; name pvc:// or oci://, of "
        "which nothing is downloaded"
    )


@pytest.mark.parametrize(
    ("name", "whose"), [("worker", "of the pool"), ("proxy", "of that container")]
)
def test_a_container_that_runs_out_of_memory_is_told_what_to_raise(name: str, whose: str) -> None:
    raised = f"raise resources.limits.memory {whose}"
    assert killed(name) == f"{name} ran out of memory, once: {raised}"


def killed(name: str) -> str:
    """Return what is said of a pod with a container that was killed."""
    metadata = {"uid": "1", "name": "w", "resourceVersion": "1"}
    status = {"containerStatuses": [{"name": name, **KILLED}]}
    found = pod({"metadata": metadata, "status": status})
    return found.failing or found.beside
