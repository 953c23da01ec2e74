"""Keeps the cache true for one kind: list, then watch, and list again when a watch was missed.

The API server may end a watch at any time, lose history (410 Gone) or be away; the cache keeps what
it has and catches up. Lost, doubled and reordered events do no harm: an event only replaces an
object by a newer one, and after every gap the whole list is compared.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import Kind

log = logging.getLogger("penstock.operator.watch")

LONGEST_PAUSE = 20.0
"""Seconds between two tries while the API server is away."""
GONE = 410

Changed = Callable[[set[Key]], None]


class Informer:
    """Watches one kind, in one namespace or everywhere."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        namespace: str | None,
        cache: Cache,
        changed: Changed,
        selector: str | None = None,
        relisted: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._kind = kind
        self._namespace = namespace
        self._cache = cache
        self._changed = changed
        self._selector = kind.selector if selector is None else selector
        self._relisted = relisted
        self.listed = asyncio.Event()
        """Set once everything was seen at least once."""

    async def run(self) -> None:
        """Follow the kind until cancelled."""
        pause = 0.0
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    pause = 0.0
                version = await self._watch(version)
            except ApiError as error:
                if error.status == GONE:
                    version = ""
                    continue
                pause = min(LONGEST_PAUSE, 2 * pause + 0.5)
                version = ""
                log.warning("%s: %s; trying again", self._kind.plural, error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _list(self) -> str:
        found = await self._api.list(self._kind, self._namespace, self._selector)
        name = self._kind.name
        for item in found["items"]:
            item.setdefault("kind", name)
            item.setdefault("apiVersion", self._kind.version)
        version: str = found["metadata"]["resourceVersion"]
        concerned = self._cache.relist(name, self._namespace, found["items"], version)
        self.listed.set()
        self._relisted()
        self._changed(concerned)
        return version

    async def _watch(self, version: str) -> str:
        """Follow the changes; return the version to go on from when the server ends the watch."""
        stream = self._api.watch(self._kind, self._namespace, self._selector, version)
        async for event in stream:
            item = event["object"]
            if event["type"] == "ERROR":
                raise ApiError(int(item.get("code", 0)), str(item.get("message", "")))
            version = item["metadata"]["resourceVersion"]
            self._cache.passed(self._kind.name, self._namespace, version)
            if event["type"] == "DELETED":
                self._changed(self._cache.drop(self._kind.name, item))
            elif event["type"] in ("ADDED", "MODIFIED"):
                self._changed(self._cache.put(self._kind.name, item))
        return version
