"""Keeps a copy of a collection of the API server: list once, then follow its changes.

A watch that breaks is taken up where it broke; only when the server has forgotten that point (410
Gone) is everything listed again. Nothing is ever dropped because the API server is away.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Generic, TypeVar

from penstock_gateway.fleet.api_server import GONE, ApiServer, ApiServerError, Collection, Object
from penstock_gateway.fleet.backoff import pause

log = logging.getLogger("penstock.gateway.fleet")

T = TypeVar("T")


class Reflector(Generic[T]):
    """One collection, each object reduced by `understand` to what matters (None: nothing).

    Args:
        api: where from.
        collection: what.
        understand: pure; called once per object and change.
        changed: called after every change of `items` or `current`.
    """

    def __init__(
        self,
        api: ApiServer,
        collection: Collection,
        understand: Callable[[Object], T | None],
        changed: Callable[[], None],
    ) -> None:
        self.items: dict[str, T] = {}
        """By uid."""
        self.listed = False
        """Whether everything was seen at least once."""
        self.current = False
        """Whether the changes are being followed."""
        self._api = api
        self._collection = collection
        self._understand = understand
        self._changed = changed
        self._failures = 0
        self._version = ""

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                if not await self._follow():
                    await asyncio.sleep(pause(1, random.random()))
            except ApiServerError as error:
                await self._failed(error)

    async def _list(self) -> None:
        objects, self._version = await self._api.list(self._collection)
        self.items = {}
        for found in objects:
            self._keep(found)
        self.listed = True
        self._changed()

    async def _follow(self) -> bool:
        """Take over changes until the watch ends; return whether there was any."""
        before = self._version
        async for event in self._api.watch(self._collection, before, self._opened):
            found = event["object"]
            self._version = found["metadata"]["resourceVersion"]
            self._failures = 0
            if event["type"] == "DELETED":
                self.items.pop(found["metadata"]["uid"], None)
            elif event["type"] != "BOOKMARK":
                self._keep(found)
            self._changed()
        return self._version != before

    def _opened(self) -> None:
        self.current = True
        self._changed()

    async def _failed(self, error: ApiServerError) -> None:
        """Wait for a while; a version that the server has forgotten is not asked for again."""
        self._failures += 1
        if error.status == GONE:
            self._version = ""
            if self._failures == 1:
                return
        else:
            self.current = False
            self._changed()
        log.warning("keeping the last fleet: %s", error)
        await asyncio.sleep(pause(self._failures, random.random()))

    def _keep(self, found: Object) -> None:
        uid = found["metadata"]["uid"]
        try:
            understood = self._understand(found)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s: %s: not understood: %r", self._collection, uid, error)
            understood = None
        if understood is None:
            self.items.pop(uid, None)
        else:
            self.items[uid] = understood
