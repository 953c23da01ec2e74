"""What was written counts as news: the watch will have none, as the cache is ahead of it."""

from typing import Any, cast

import plain_http
import pytest

from penstock_operator.cluster.act import Actor
from penstock_operator.cluster.actions import Action, Merge, RecordEvent, WriteStatus
from penstock_operator.cluster.api import Api
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.events import Events
from penstock_operator.manifests import Object

pytestmark = pytest.mark.anyio
KEY = Key("models", "chat")
REPORT = WriteStatus("EnginePool", "chat-default", {"replicas": 2})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """Answers every write with the same object, of the version that it is given."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def merge(self, *_: Any) -> Object:
        return pool(self.version)

    async def apply(self, *_: Any) -> Object:
        return pool(self.version)


def pool(version: int) -> Object:
    meta = {"namespace": "models", "name": "chat-default", "uid": "1"}
    return {"metadata": {**meta, "resourceVersion": str(version)}, "spec": {"deployment": "chat"}}


async def act(action: Action, *, knows: int, answers: int) -> bool:
    """Return whether an action was news, with a version that is known and one that is answered."""
    cache, api = Cache(), cast("Api", Server(answers))
    cache.put("EnginePool", pool(knows))
    async with plain_http.client() as http:
        actor = Actor(api, cache, Events(api), http)
        about = {"apiVersion": "x", "kind": "InferenceDeployment", **pool(1)}
        return await actor.act(KEY, about, action, set())


async def test_a_written_status_makes_the_next_step_possible() -> None:
    assert await act(REPORT, knows=1, answers=2)


async def test_a_status_that_the_api_server_does_not_keep_is_not_written_in_a_loop() -> None:
    assert not await act(REPORT, knows=1, answers=1)


async def test_what_the_watch_told_first_is_no_news() -> None:
    patch = Merge("EnginePool", "chat-default", {"spec": {"replicas": 2}}, "more")
    assert await act(patch, knows=1, answers=2)
    assert not await act(patch, knows=3, answers=2)


async def test_an_event_is_for_people_only() -> None:
    assert not await act(RecordEvent("Draining", "pool default"), knows=1, answers=2)
