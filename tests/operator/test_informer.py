"""One kind followed: whatever is written in between, the cache ends as the server is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from penstock_contract.labels import DEPLOYMENT
from penstock_operator.cluster.api import Api
from penstock_operator.cluster.cache import Cache
from penstock_operator.cluster.informer import Informer
from penstock_operator.cluster.kinds import Kind
from penstock_operator.manifests import Object

pytestmark = pytest.mark.anyio
SERVICE = Kind("Service", "v1", "services")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def service(version: int, uid: str = "1") -> Object:
    meta = {"namespace": "models", "name": "chat", "uid": uid, "labels": {DEPLOYMENT: "chat"}}
    return {"kind": "Service", "metadata": {**meta, "resourceVersion": str(version)}}


class Server:
    """Answers with these lists, one after the other, and tells these events after the first."""

    def __init__(self, *lists: Object, events: tuple[Object, ...] = ()) -> None:
        self._lists, self._events = list(lists), list(events)
        self.listing: Callable[[], Any] = lambda: None
        self.told = asyncio.Event()

    async def list(self, *_: Any) -> Object:
        found = self._lists.pop(0)
        self.listing()
        return found

    async def watch(self, *_: Any) -> AsyncIterator[Object]:
        while self._events:
            yield self._events.pop(0)
        if self._lists:
            yield {"type": "ERROR", "object": {"code": 410, "message": "expired"}}
        self.told.set()
        await asyncio.Event().wait()


def listed(version: int, *items: Object) -> Object:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


async def follow(cache: Cache, server: Server) -> None:
    """Follow until all is told."""
    informer = Informer(cast("Api", server), SERVICE, None, cache, lambda _: None)
    task = asyncio.create_task(informer.run())
    await server.told.wait()
    task.cancel()


async def test_an_answer_that_comes_after_the_news_of_the_deletion_leaves_no_ghost() -> None:
    cache = Cache()
    events = ({"type": "ADDED", "object": service(11)}, {"type": "DELETED", "object": service(12)})
    await follow(cache, Server(listed(10), events=events))
    assert cache.answered("Service", service(11)) == set()
    assert cache.names("Service") == []


async def test_a_bookmark_tells_how_far_the_watch_is() -> None:
    cache = Cache()
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}}
    await follow(cache, Server(listed(10), events=(bookmark,)))
    assert cache.answered("Service", service(15)) == set()
    assert cache.answered("Service", service(21)) != set()


async def test_what_was_deleted_while_nobody_watched_is_gone_after_the_next_list() -> None:
    cache = Cache()
    await follow(cache, Server(listed(10, service(5)), listed(20)))
    assert cache.names("Service") == []


async def test_what_is_written_while_a_list_is_on_its_way_is_not_lost() -> None:
    cache = Cache()
    server = Server(listed(10))
    server.listing = lambda: cache.answered("Service", service(11))
    await follow(cache, server)
    assert cache.names("Service") == [("models", "chat")]
