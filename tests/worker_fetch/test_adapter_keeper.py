"""What an agent makes of an engine that does not answer in time: it is slow, not another one."""

import asyncio
import json
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
from penstock_worker.adapters.engine import EngineRoutes
from penstock_worker.adapters.keeper import Keeper

ROOT = Path("/kept")


class Engine:
    """An engine's routes; it can be too slow for whoever asks."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.late = False
        self.asked_in_vain = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.late:
            self.asked_in_vain += 1
            raise httpx.ReadTimeout("it computes", request=request)
        body = json.loads(request.content or "{}")
        if request.url.path == LOAD:
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


def test_an_engine_that_is_slow_is_the_same_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays ready, and vLLM's keeps the KV of all names that it has had."""
    monkeypatch.setattr(keeper, "ROUND_SECONDS", 0.01)
    engine = Engine()

    async def scenario(client: httpx.AsyncClient) -> None:
        routes = EngineRoutes(client, "http://engine", WorkerTokens())
        kept = Keeper(routes, lambda one: ROOT / one.folder, lambda _: None, ROOT, by_name=True)
        running = asyncio.create_task(kept.run())

        def state() -> AdapterState | None:
            found = kept.report().adapters.get("sql")
            return None if found is None else found.state

        kept.tell(told(SQL, announced=("sql",)))
        while not kept.ready:
            await asyncio.sleep(0.01)
        assert state() is AdapterState.READY
        engine.late = True
        while engine.asked_in_vain < 3:
            await asyncio.sleep(0.01)
        assert kept.ready
        assert state() is AdapterState.READY
        engine.late = False
        kept.tell(told())
        while engine.adapters:
            await asyncio.sleep(0.01)
        engine.late, engine.asked_in_vain = True, 0
        while engine.asked_in_vain < 3:
            await asyncio.sleep(0.01)
        engine.late = False
        kept.tell(told(OTHER))
        while state() is AdapterState.LOADING:
            await asyncio.sleep(0.01)
        assert state() is AdapterState.FAILED, "the name was another adapter's"
        running.cancel()

    async def all_of_it() -> None:
        transport = httpx.MockTransport(engine.answer)
        async with httpx.AsyncClient(transport=transport) as client, asyncio.timeout(60):
            await scenario(client)

    asyncio.run(all_of_it())
