"""Keeps an engine's adapters as they were last told to be.

Level-triggered: each round compares what is wanted with what the engine lists, so that an engine
that has started anew gets all of them again. Downloads and their failures are remembered; what
failed is tried again, ever less often.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from penstock_contract.adapter_routes import NAME_HAD
from penstock_contract.adapters import (
    AdapterReport,
    AdapterState,
    WantedAdapter,
    WantedAdapters,
)
from penstock_worker.adapters.engine import EngineAway, EngineRoutes, EngineSlow
from penstock_worker.adapters.item import Item

log = logging.getLogger("penstock.adapters")

ROUND_SECONDS = 1.0
DOWNLOADS = 4
"""At a time."""
TOLD_WITHIN = 60.0
"""Seconds that an engine's pod waits for the first list: the operator may be away."""
TRIED_WITHIN = 300.0
"""Seconds that it waits for its adapters: a slow source must not keep the model itself away."""

Fetch = Callable[[WantedAdapter], Path]
"""Brings an adapter's files to this machine, and returns where they are; it blocks.

Raises Exception, whose words say why it cannot.
"""
Forget = Callable[[Path], None]
"""Removes files that are not wanted any more, and what has come of them so far."""


class Keeper:
    """The adapters of one engine.

    Args:
        engine: loads them.
        fetch: downloads them.
        forget: of files that no adapter has any more.
        root: folder of all that is downloaded; adapters elsewhere are the engine's own.
        by_name: the engine finds KV by the adapter's name alone, as vLLM does: what once had a
            name in it keeps that.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: EngineRoutes,
        fetch: Fetch,
        forget: Forget,
        root: Path,
        *,
        by_name: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._fetch = fetch
        self._forget = forget
        self._root = root
        self._by_name = by_name
        self._clock = clock
        self._items: dict[str, Item] = {}
        self._told = False
        self._announced: frozenset[str] | None = None
        self._loaded: dict[str, str] = {}
        self._had: set[str] = set()
        self._ever: dict[str, str] = {}
        self._leftover: set[Path] = set()
        self._up_since: float | None = None
        self._ready = False
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(DOWNLOADS)

    def tell(self, wanted: WantedAdapters) -> None:
        """Take over what there is to be."""
        known = self._items
        self._items = {}
        for one in wanted.adapters:
            item = known.pop(one.name, None)
            if item is None or item.wanted != one:
                if item is not None:
                    self._drop(item)
                item = Item(one)
                item.note(AdapterState.LOADING)
                self._news.set()
            self._items[one.name] = item
        for gone in known.values():
            self._drop(gone)
            self._news.set()
        self._announced = None if wanted.announced is None else frozenset(wanted.announced)
        self._told = True
        self._settle()

    def report(self) -> AdapterReport:
        """Return how far the adapters are."""
        return AdapterReport(
            loaded=tuple(sorted(self._loaded)),
            adapters={name: item.found for name, item in self._items.items()},
            tried=self._tried,
        )

    @property
    def ready(self) -> bool:
        """Whether the engine may be sent requests: gateways know which adapters it has.

        Once it is, it stays so until the engine starts anew: what comes later is announced later.
        """
        return self._ready

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self._round()
            except EngineSlow as error:
                log.info("the engine takes its time: %s", error)
            except EngineAway as error:
                if self._up_since is not None:
                    log.info("the engine does not answer: %s", error)
                    self._begin_anew()
            except Exception:
                log.exception("the next round tries again")  # whatever it was, streams go on
            self._settle()
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    @property
    def _tried(self) -> bool:
        states = [item.found.state for item in self._items.values()]
        return self._told and AdapterState.LOADING not in states

    def _settle(self) -> None:
        if self._ready or self._up_since is None:
            return
        waited = self._clock() - self._up_since
        known = self._announced is not None and self._announced == frozenset(self._loaded)
        late = waited > (TRIED_WITHIN if self._told else TOLD_WITHIN)
        self._ready = late or (self._tried and known)

    def _begin_anew(self) -> None:
        self._up_since, self._ready = None, False
        self._loaded, self._had, self._ever = {}, set(), {}
        for item in self._items.values():
            if item.found.state is not AdapterState.LOADING and not item.given_up:
                item.note(AdapterState.LOADING)

    async def _round(self) -> None:
        loaded = await self._engine.loaded()
        if self._up_since is not None and not self._had <= loaded.keys():
            self._begin_anew()  # it has started anew so fast that nobody saw it away
        if self._up_since is None:
            self._up_since = self._clock()
        self._loaded = loaded
        self._ever = loaded | self._ever
        if not self._told:
            return  # an agent that starts anew knows nothing yet of what is there and serves
        for name, folder in list(loaded.items()):
            if name not in self._items and self._is_ours(Path(folder)):
                await self._unload(name, Path(folder))
        for item in list(self._items.values()):
            await self._bring(item)
        self._forget_leftover()

    def _is_ours(self, folder: Path) -> bool:
        return self._root in folder.parents and ".." not in folder.parts

    async def _unload(self, name: str, folder: Path) -> None:
        problem = await self._engine.unload(name)
        if problem:
            log.warning("unloading %s: %s", name, problem)
            return
        log.info("unloaded %s", name)
        self._leftover.add(folder)
        self._loaded.pop(name, None)
        self._had.discard(name)
        for item in self._items.values():  # there is room for what found none
            item.again_at = item.again_at if item.given_up else 0.0

    async def _bring(self, item: Item) -> None:
        """Take an adapter one step further."""
        now, name = self._clock(), item.wanted.name
        if item.found.state is AdapterState.FAILED and now < item.again_at:
            return
        if item.folder is None:
            self._look_at_download(item, now)
        if item.folder is None:
            return
        folder = str(item.folder)
        if self._loaded.get(name) == folder:
            self._had.add(name)
            item.failures = 0
            if item.found.state is not AdapterState.READY:
                item.note(AdapterState.READY)
            return
        if self._by_name and self._ever.get(name, folder) != folder:
            item.failed(NAME_HAD, now)
            return
        try:
            problem = await self._engine.load(name, folder, again=name in self._loaded)
        except EngineAway:
            self._begin_anew()
            item.ended_its_engine(self._clock())
            log.warning("loading %s: %s", name, item.found.message)
            raise
        if name not in self._items or self._items[name] is not item:
            return  # told otherwise meanwhile; the next round sees what is loaded
        if problem:
            log.warning("loading %s: %s", name, problem)
            item.failed(problem, self._clock())
            return
        log.info("loaded %s from %s", name, folder)
        self._loaded[name] = self._ever[name] = folder
        self._had.add(name)
        item.failures = 0
        item.note(AdapterState.READY)

    def _look_at_download(self, item: Item, now: float) -> None:
        if item.download is None:
            item.download = asyncio.create_task(self._downloaded(item))
            item.download.add_done_callback(lambda _: self._news.set())
        if not item.download.done():
            return
        done, item.download = item.download, None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.warning("downloading %s: %s", item.wanted.uri, error)
            item.failed(str(error), now)
        elif not done.cancelled():
            item.folder = done.result()

    async def _downloaded(self, item: Item) -> Path:
        async with self._room:
            if self._items.get(item.wanted.name) is not item:
                raise asyncio.CancelledError  # it was wanted no more before its turn came
            return await asyncio.to_thread(self._fetch, item.wanted)

    def _drop(self, item: Item) -> None:
        """Let its files go, whole or not."""
        folder = self._root / item.wanted.folder
        if item.download is None:
            self._leftover.add(folder)
        else:  # a thread cannot be stopped: what it brings goes then
            item.download.add_done_callback(lambda _: self._brought_in_vain(folder))

    def _brought_in_vain(self, folder: Path) -> None:
        self._leftover.add(folder)
        self._news.set()

    def _forget_leftover(self) -> None:
        """Remove files that neither the engine has nor anybody wants."""
        needed = {Path(folder) for folder in self._loaded.values()}
        needed |= {self._root / item.wanted.folder for item in self._items.values()}
        for folder in self._leftover - needed:
            self._forget(folder)
        self._leftover &= needed
