"""What keeps a pod from starting is asked for with patience, and told in kubelet's first words."""

from typing import Any, cast

import pytest

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Key
from penstock_operator.cluster.observed import Pod, pod
from penstock_operator.cluster.pod_startup import AGAIN, PATIENCE, PodStartup, words
from penstock_operator.manifests import Object

KEY = Key("models", "chat")
CAUSE = 'MountVolume.SetUp failed for volume "tls" : secret "tls" not found'
SUMMARY = "Unable to attach or mount volumes: unmounted volumes=[tls]: timed out"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """Has some Events, and counts who asks."""

    def __init__(self, *events: Object) -> None:
        self.events = list(events)
        self.asked: list[str] = []
        self.refuses = False

    async def list(self, *_: Any, fields: str) -> Object:
        self.asked.append(fields)
        if self.refuses:
            raise ApiError(403, "no right to list events")
        return {"items": self.events}


def event(message: str, reason: str = "FailedMount", at: str = "2026-01-01T00:00:00Z") -> Object:
    return {"reason": reason, "message": message, "lastTimestamp": at}


def seen(state: Object, phase: str = "Pending", placed: str = "True") -> Pod:
    metadata = {"uid": "u", "name": "w", "resourceVersion": "1"}
    status = {
        "phase": phase,
        "conditions": [{"type": "PodScheduled", "status": placed}],
        "containerStatuses": [{"name": "worker", "ready": False, "state": state}],
    }
    return pod({"metadata": metadata, "status": status})


CREATING = seen({"waiting": {"reason": "ContainerCreating"}})


def test_a_pod_is_starting_until_anything_of_it_has_run() -> None:
    assert CREATING.starting
    assert not seen({"waiting": {"reason": "ContainerCreating"}}, placed="False").starting
    assert not seen({"running": {"startedAt": "now"}}).starting
    assert not seen({"terminated": {"exitCode": 1}}).starting
    assert not seen({"waiting": {"reason": "CrashLoopBackOff"}}, phase="Running").starting


@pytest.mark.anyio
async def test_a_pod_that_starts_in_time_costs_no_call() -> None:
    server = Server(event(CAUSE))
    starting = PodStartup(cast("Api", server))
    assert (await starting.explained(KEY, [CREATING], 0.0))[0].waiting == ""
    assert starting.again_in(KEY, 0.0) == PATIENCE
    await starting.explained(KEY, [seen({"running": {}}, phase="Running")], PATIENCE)
    assert starting.again_in(KEY, PATIENCE) is None
    assert server.asked == []


@pytest.mark.anyio
async def test_a_pod_that_does_not_is_explained_and_asked_about_now_and_then() -> None:
    server = Server(event(CAUSE))
    starting = PodStartup(cast("Api", server))
    await starting.explained(KEY, [CREATING], 0.0)
    for second in range(20):
        found = await starting.explained(KEY, [CREATING], PATIENCE + second)
        assert found[0].waiting == f"FailedMount: {CAUSE}"
    assert server.asked == ["involvedObject.uid=u"]
    server.events = []
    assert (await starting.explained(KEY, [CREATING], PATIENCE + AGAIN))[0].waiting == ""


@pytest.mark.anyio
async def test_without_the_right_to_ask_nothing_is_told() -> None:
    server = Server(event(CAUSE))
    server.refuses = True
    starting = PodStartup(cast("Api", server))
    await starting.explained(KEY, [CREATING], 0.0)
    assert (await starting.explained(KEY, [CREATING], PATIENCE))[0].waiting == ""


def test_the_cause_is_told_rather_than_the_summary() -> None:
    later = event(SUMMARY, at="2026-01-01T00:02:00Z")
    assert words([later, event(CAUSE)]) == f"FailedMount: {CAUSE}"
    assert words([later]) == f"FailedMount: {SUMMARY}"


def test_events_of_other_kinds_tell_nothing() -> None:
    assert words([event("Pulling image", "Pulling"), event("ok", "Scheduled")]) == ""
