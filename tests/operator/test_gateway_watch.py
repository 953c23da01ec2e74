"""What counts as the gateways' word that a worker gets nothing new."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import anyio
import httpx
import pytest

from penstock_contract.fleet import GatewayWorkers, WorkerLoad, WorkerState
from penstock_operator.cluster import gateways as module
from penstock_operator.cluster.gateways import GatewayWatch

READY = WorkerLoad(state=WorkerState.READY, in_flight=1, outstanding_tokens=10)
DRAINING = WorkerLoad(state=WorkerState.DRAINING)
VICTIM = frozenset({"w"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Gateways:
    """Some gateways at once, behind httpx's own transport; None: it does not answer."""

    def __init__(self) -> None:
        self.answers: dict[str, WorkerLoad | str | None] = {"a": READY, "b": READY}
        self.told: list[bool] = []
        http = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.watch = GatewayWatch(http, self._addresses, "http://gateway")
        self.watch.on_change(self.told.append)

    def _addresses(self) -> list[str]:
        return [f"http://{name}" for name in self.answers]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        found = self.answers[request.url.host]
        if isinstance(found, str):
            return httpx.Response(503)
        workers = {} if found is None else {"w": found}
        return httpx.Response(200, content=GatewayWorkers(workers=workers).model_dump_json())

    def confirmed(self) -> bool:
        return "w" in self.watch.view(VICTIM).confirmed


@pytest.fixture
def usually(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USUALLY", 0.01)
    monkeypatch.setattr(module, "SOON", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.usefixtures("usually")
async def test_a_worker_is_given_up_only_when_every_gateway_has_given_it_up() -> None:
    gateways = Gateways()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateways.watch.run)
        await until(lambda: gateways.watch.view(frozenset()).ready)
        assert not gateways.confirmed()
        gateways.answers["a"] = DRAINING
        await anyio.sleep(0.1)
        assert not gateways.confirmed()
        gateways.answers["b"] = None  # it does not list it, and so does not send to it
        await until(gateways.confirmed)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.usefixtures("usually")
async def test_one_silent_gateway_is_waited_for_while_others_answer() -> None:
    gateways = Gateways()
    gateways.answers = {"a": DRAINING, "b": "silent"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateways.watch.run)
        await until(lambda: gateways.watch.view(frozenset()).ready)
        gateways.confirmed()
        await anyio.sleep(0.1)
        assert not gateways.confirmed()
        gateways.answers["b"] = DRAINING
        await until(gateways.confirmed)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.usefixtures("usually")
async def test_loads_are_fresh_when_they_were_asked_for_since_they_matter() -> None:
    gateways = Gateways()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateways.watch.run)
        await until(lambda: gateways.watch.view(frozenset()).ready)
        since = time.monotonic()
        assert not gateways.watch.view(frozenset(), since).fresh
        await until(lambda: gateways.watch.view(frozenset(), since).fresh)
        assert not gateways.watch.view(frozenset(), None).fresh
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.usefixtures("usually")
async def test_without_any_gateway_nobody_is_waited_for_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateways = Gateways()
    gateways.answers = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateways.watch.run)
        assert not gateways.confirmed()
        monkeypatch.setattr(module, "SILENCE", 0.0)
        await until(gateways.confirmed)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_silence_in_which_nobody_was_asked_confirms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateways = Gateways()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600)
    monkeypatch.setattr(module, "time", later)
    await gateways.watch.begin()
    assert gateways.watch.view(frozenset()).ready
    assert not gateways.confirmed()


@pytest.mark.anyio
@pytest.mark.usefixtures("usually")
async def test_loads_add_up_and_a_change_of_load_alone_is_nothing_for_everyone() -> None:
    gateways = Gateways()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateways.watch.run)
        await until(lambda: gateways.told == [True])
        assert gateways.watch.view(VICTIM).loads["w"].outstanding_tokens == 20
        gateways.answers["a"] = DRAINING
        await until(lambda: len(gateways.told) > 1)
        assert not any(gateways.told[1:])
        assert gateways.watch.view(VICTIM).loads["w"].state is WorkerState.READY
        tasks.cancel_scope.cancel()
