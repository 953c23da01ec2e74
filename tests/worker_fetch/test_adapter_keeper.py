"""What an agent makes of engines that are slow or end, of its own new start, and of old files."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from penstock_contract.adapters import (
    LOAD,
    MODELS,
    UNLOAD,
    AdapterState,
    WantedAdapter,
    WantedAdapters,
)
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.adapters import keeper
from penstock_worker.adapters.cli import fetched
from penstock_worker.adapters.engine import EngineRoutes
from penstock_worker.adapters.item import LONGEST_PAUSE, Item
from penstock_worker.adapters.keeper import Keeper
from penstock_worker.fetch.remote import FetchError

ROOT = Path("/kept")


class Engine:
    """An engine's routes; it can be too slow for whoever asks, and an adapter can end it."""

    def __init__(self, **adapters: str) -> None:
        self.adapters = adapters
        self.late = False
        self.asked = 0
        self.asked_in_vain = 0
        self.loads: list[str] = []
        self.ended_by = ""
        self.breaks = 0
        self.most = 9

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.late:
            self.asked_in_vain += 1
            raise httpx.ReadTimeout("it computes", request=request)
        if self.breaks:
            self.breaks -= 1
            raise httpx.RemoteProtocolError("it has closed the connection", request=request)
        body = json.loads(request.content or "{}")
        if request.url.path == LOAD:
            self.loads.append(body["lora_name"])
            if body["lora_name"] == self.ended_by:
                self.adapters.clear()
                raise httpx.RemoteProtocolError("it has ended", request=request)
            if len(self.adapters) == self.most:
                return httpx.Response(400, json={"message": "there is no room"})
            self.adapters[body["lora_name"]] = body["lora_path"]
        if request.url.path == UNLOAD:
            del self.adapters[body["lora_name"]]
        if request.url.path == MODELS:
            cards = [{"id": n, "root": f, "parent": "m"} for n, f in self.adapters.items()]
            return httpx.Response(200, json={"data": cards})
        return httpx.Response(200)


def told(*wanted: WantedAdapter, announced: tuple[str, ...] = ()) -> WantedAdapters:
    return WantedAdapters(adapters=wanted, announced=announced)


SQL = WantedAdapter(name="sql", uri="hf://org/sql", folder="one")
OTHER = WantedAdapter(name="sql", uri="hf://org/other", folder="other")


LAW = WantedAdapter(name="law", uri="hf://org/law", folder="law")


class Kept:
    """An agent's keeper, what it forgets, and what it takes for the time."""

    def __init__(self, engine: Engine, client: httpx.AsyncClient, by_name: bool) -> None:
        routes = EngineRoutes(client, "http://engine", WorkerTokens())
        self.engine = engine
        self.forgotten: list[Path] = []
        self.now = 0.0
        self.fetch: Callable[[WantedAdapter], Path] = lambda one: ROOT / one.folder
        self.keeper = Keeper(
            routes,
            lambda one: self.fetch(one),
            self.forgotten.append,
            ROOT,
            by_name=by_name,
            clock=lambda: self.now,
        )

    def states(self) -> dict[str, AdapterState]:
        return {name: one.state for name, one in self.keeper.report().adapters.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    async def rounds(self, count: int) -> None:
        """Wait until it has looked at its engine so many times more, at two questions each."""
        enough = self.engine.asked + 2 * count
        await self.until(lambda: self.engine.asked >= enough)


@asynccontextmanager
async def kept(engine: Engine, *, by_name: bool = False) -> AsyncIterator[Kept]:
    transport = httpx.MockTransport(engine.answer)
    async with httpx.AsyncClient(transport=transport) as client, asyncio.timeout(60):
        found = Kept(engine, client, by_name)
        running = asyncio.create_task(found.keeper.run())
        try:
            yield found
        finally:
            running.cancel()


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ROUND_SECONDS", 0.01)


def test_what_has_come_of_an_adapter_that_is_wanted_no_more_goes() -> None:
    async def scenario() -> None:
        async with kept(Engine()) as found:
            found.fetch = refuse
            found.keeper.tell(WantedAdapters(adapters=(LAW,)))
            await found.until(lambda: found.states() == {"law": AdapterState.FAILED})
            assert found.forgotten == []
            found.keeper.tell(WantedAdapters(adapters=()))
            await found.until(lambda: found.forgotten == [ROOT / "law"])

    def refuse(_: WantedAdapter) -> Path:
        raise OSError("broken off")

    asyncio.run(scenario())


def test_an_engine_that_is_slow_is_the_same_engine() -> None:
    """It stays ready, and vLLM's keeps the KV of all names that it has had."""

    async def scenario() -> None:
        engine = Engine()
        async with kept(engine, by_name=True) as found:
            found.keeper.tell(told(SQL, announced=("sql",)))
            await found.until(lambda: found.keeper.ready)
            assert found.states() == {"sql": "Ready"}
            engine.late = True
            await found.until(lambda: engine.asked_in_vain >= 3)
            assert found.keeper.ready
            assert found.states() == {"sql": "Ready"}
            engine.late = False
            found.keeper.tell(told())
            await found.until(lambda: not engine.adapters)
            engine.late, engine.asked_in_vain = True, 0
            await found.until(lambda: engine.asked_in_vain >= 3)
            engine.late = False
            found.keeper.tell(told(OTHER))
            await found.until(lambda: found.states() != {"sql": "Loading"})
            assert found.states() == {"sql": "Failed"}, "the name was another adapter's"

    asyncio.run(scenario())


def test_a_connection_that_breaks_is_no_engine_that_ends() -> None:
    async def scenario() -> None:
        engine = Engine()
        async with kept(engine) as found:
            found.keeper.tell(told(SQL, announced=("sql",)))
            await found.until(lambda: found.keeper.ready)
            engine.breaks, enough = 1, engine.asked + 6
            while engine.asked < enough:
                await asyncio.sleep(0)
                assert found.keeper.ready

    asyncio.run(scenario())


def test_what_found_no_room_is_tried_again_when_there_is_some() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.most = 1
        async with kept(engine) as found:  # no time passes
            found.keeper.tell(told(SQL, LAW))
            await found.until(lambda: found.states() == {"sql": "Ready", "law": "Failed"})
            found.keeper.tell(told(LAW))
            await found.until(lambda: found.states() == {"law": "Ready"})

    asyncio.run(scenario())


def test_an_agent_that_starts_anew_takes_nothing_from_an_engine_that_serves() -> None:
    async def scenario() -> None:
        engine = Engine(sql=str(ROOT / "one"), law=str(ROOT / "law"))
        async with kept(engine) as found:
            await found.rounds(3)
            assert engine.adapters.keys() == {"sql", "law"}, "nobody has said what is to be"
            found.keeper.tell(told(SQL, announced=("sql",)))
            await found.until(lambda: found.keeper.ready)
            assert engine.adapters.keys() == {"sql"}
            assert engine.loads == [], "what was there is there"
            await found.until(lambda: found.forgotten == [ROOT / "law"])

    asyncio.run(scenario())


def test_an_adapter_that_ends_its_engine_keeps_nobody_from_the_model() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.ended_by = "law"
        async with kept(engine) as found:
            found.keeper.tell(told(LAW, SQL, announced=("sql",)))
            await found.until(lambda: found.keeper.ready)
            assert found.states() == {"law": "Failed", "sql": "Ready"}
            found.now += 3600.0  # it may have been an accident
            await found.until(lambda: engine.loads.count("law") == 2)
            found.now += 3600.0
            await found.until(lambda: found.keeper.ready)
            await found.rounds(3)
            engine.adapters.clear()  # whatever ends the engine later
            await found.until(lambda: engine.adapters.keys() == {"sql"})
            await found.rounds(3)
            assert engine.loads.count("law") == 2
            message = found.keeper.report().adapters["law"].message
            assert message == (
                "the engine ended while it loaded this adapter: "
                "it is not tried again until it is changed"
            )
            engine.ended_by = ""
            found.keeper.tell(told(LAW.model_copy(update={"revision": "better"}), SQL))
            await found.until(lambda: found.states() == {"law": "Ready", "sql": "Ready"})

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("uri", "folder"),
    [("file:///etc", ""), ("file:///etc", "etc"), *(("hf://a/b", at) for at in ("", ".", "../a"))],
)
def test_only_what_is_downloaded_below_its_folder_is_brought(
    tmp_path: Path, uri: str, folder: str
) -> None:
    with pytest.raises(FetchError):
        fetched(WantedAdapter(name="sql", uri=uri, folder=folder), tmp_path)


def test_what_is_wanted_no_more_goes_though_its_download_was_under_way() -> None:
    async def scenario() -> None:
        started, go_on = threading.Event(), threading.Event()

        def fetch(one: WantedAdapter) -> Path:
            started.set()
            go_on.wait()
            return ROOT / one.folder

        async with kept(Engine()) as found:
            found.fetch = fetch
            found.keeper.tell(told(LAW))
            await found.until(started.is_set)
            found.keeper.tell(told())
            await found.rounds(3)
            assert found.forgotten == []
            go_on.set()
            await found.until(lambda: found.forgotten == [ROOT / "law"])

    asyncio.run(scenario())


def test_a_pause_ends_growing_however_often_something_has_failed() -> None:
    item = Item(LAW)
    for _ in range(5000):
        item.failed("no such bucket", now=0.0)
    assert item.again_at == LONGEST_PAUSE
