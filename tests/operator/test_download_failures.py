"""What a download says when it fails is what the condition says, as a kubelet reports it."""

from typing import Any

from penstock_operator.cluster.world import pod

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
