"""Agents are told what is wanted now, and only by who leads now."""

import asyncio

import httpx
import pytest

from penstock_contract.adapters import AdapterReport, WantedAdapters
from penstock_operator.cluster import adapter_watch
from penstock_operator.cluster.actions import Agent
from penstock_operator.cluster.adapter_watch import AdapterWatch
from penstock_operator.cluster.cache import Key

KEY, GONE = Key("default", "chat"), Key("default", "gone")
FIRST = Agent("10.0.0.1", WantedAdapters(announced=()))
SECOND = Agent("10.0.0.1", WantedAdapters(announced=("sql",)))
DONE = AdapterReport(tried=True)


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has nothing to do is not asked again for as long as a test takes."""
    monkeypatch.setattr(adapter_watch, "USUALLY", 3600.0)


class Agents:
    """Agents that have nothing to do; `meanwhile` is wanted while the first of them answers."""

    def __init__(self, meanwhile: Agent | None = None) -> None:
        self.heard: list[WantedAdapters] = []
        self._meanwhile = meanwhile
        self._http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.leads = True
        self.watch = AdapterWatch(self._http, leads=lambda: self.leads)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(WantedAdapters.model_validate_json(request.content))
        if self._meanwhile is not None:
            self.watch.want(KEY, {"a": self._meanwhile})
        return httpx.Response(200, content=DONE.model_dump_json())

    async def told(self, times: int) -> None:
        async with asyncio.timeout(30):
            while len(self.heard) < times:
                await asyncio.sleep(0.01)


def test_what_changes_while_an_agent_answers_is_told_at_once() -> None:
    async def scenario() -> list[WantedAdapters]:
        agents = Agents(meanwhile=SECOND)
        running = asyncio.create_task(agents.watch.run())
        await asyncio.sleep(0)
        agents.watch.want(KEY, {"a": FIRST})
        await agents.told(2)
        running.cancel()
        return agents.heard

    assert asyncio.run(scenario())[:2] == [FIRST.wanted, SECOND.wanted]


def test_who_leads_again_tells_nobody_what_was_wanted_before() -> None:
    async def scenario() -> list[WantedAdapters]:
        agents = Agents()
        agents.watch.want(GONE, {"a": FIRST})  # while the lease was held before
        running = asyncio.create_task(agents.watch.run())
        await asyncio.sleep(0)
        agents.watch.want(KEY, {"a": SECOND})
        await agents.told(1)
        running.cancel()
        return agents.heard

    assert asyncio.run(scenario()) == [SECOND.wanted]


def test_who_does_not_answer_holds_up_nobody_else() -> None:
    other = Agent("10.0.0.2", WantedAdapters(announced=()))
    heard: list[WantedAdapters] = []
    told = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == FIRST.address:
            await asyncio.Event().wait()  # for ever
        heard.append(WantedAdapters.model_validate_json(request.content))
        told.set()
        return httpx.Response(200, content=DONE.model_dump_json())

    async def scenario() -> None:
        watch = AdapterWatch(httpx.AsyncClient(transport=httpx.MockTransport(answer)))
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            watch.want(KEY, {"a": FIRST, "b": other})
            await told.wait()
            told.clear()
            watch.want(KEY, {"a": FIRST, "b": Agent(other.address, SECOND.wanted)})
            await told.wait()
        running.cancel()

    asyncio.run(scenario())
    assert heard == [other.wanted, SECOND.wanted]


def test_who_leads_no_more_and_has_not_heard_tells_nothing() -> None:
    async def scenario() -> list[WantedAdapters]:
        agents = Agents()
        agents.leads = False  # it was paused, and another has taken the lease
        running = asyncio.create_task(agents.watch.run())
        await asyncio.sleep(0)
        agents.watch.want(KEY, {"a": FIRST})
        for _ in range(10):
            await asyncio.sleep(0)
        agents.leads = True
        agents.watch.want(KEY, {"a": SECOND})
        await agents.told(1)
        running.cancel()
        return agents.heard

    assert asyncio.run(scenario())[0] == SECOND.wanted
