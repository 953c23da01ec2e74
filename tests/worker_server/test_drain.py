"""A worker that is set aside, and taken back."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from fake_engine import FakeEngineClient
from stream_auditor import audit, record
from waiting import PATIENCE
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_worker.grammar import Grammars
from penstock_worker.messages import FinishReason
from penstock_worker.server.engine_client import EngineDied
from penstock_worker.server.probe import prove
from penstock_worker.server.served import Served
from penstock_worker.text.chat_template import ChatTemplate
from penstock_worker.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"


def chat(**options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me everything."}]
    return {"model": NAME, "messages": messages, "ignore_eos": True, **options}


def ask(found: WorkerProcess) -> httpx.Response:
    return plain_http.post(found.url + CHAT, json=chat(max_tokens=1))


def drain(found: WorkerProcess, method: str) -> httpx.Response:
    return httpx.request(method, found.url + "/drain", timeout=PATIENCE)


@pytest.mark.anyio
async def test_a_drained_worker_finishes_its_streams_and_takes_nothing_new(
    tmp_path: Path,
) -> None:
    with worker(tmp_path / "log") as found:
        await asyncio.to_thread(eventually, lambda: found.health() == (200, "ok"), "it is ready")
        first = asyncio.Event()
        payload = chat(stream=True, max_tokens=400)
        reading = asyncio.create_task(record(found.url, CHAT, payload, first_piece=first))
        await asyncio.wait_for(first.wait(), PATIENCE)

        answer = await asyncio.to_thread(drain, found, "POST")
        assert (answer.status_code, answer.json()) == (200, {"status": "draining"})
        assert await asyncio.to_thread(found.health) == (503, "draining")
        refused = await asyncio.to_thread(ask, found)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert "retry-after" in refused.headers
        verdict = audit(await reading, include_usage=False)
        assert (verdict.violations, verdict.outcome) == ([], "complete")


def test_a_drain_is_told_twice_and_undone(served: WorkerProcess) -> None:
    try:
        for _ in range(2):
            assert drain(served, "POST").status_code == 200
        assert served.metric("penstock_worker_draining") == 1
    finally:
        answer = drain(served, "DELETE")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert served.health() == (200, "ok")
    assert served.metric("penstock_worker_draining") == 0
    assert ask(served).status_code == 200


@pytest.mark.anyio
async def test_a_drain_by_signal_is_not_undone(tmp_path: Path) -> None:
    with worker(tmp_path / "log") as found:
        await asyncio.to_thread(eventually, lambda: found.health() == (200, "ok"), "it is ready")
        first = asyncio.Event()
        payload = chat(stream=True, max_tokens=900, n=32)
        reading = asyncio.create_task(record(found.url, CHAT, payload, first_piece=first))
        await asyncio.wait_for(first.wait(), PATIENCE)
        found.send(signal.SIGTERM)
        draining = lambda: found.health() == (503, "draining")  # noqa: E731
        await asyncio.to_thread(eventually, draining, "it drains")
        answer = await asyncio.to_thread(drain, found, "DELETE")
        assert answer.json() == {"status": "draining"}
        reading.cancel()


def test_it_says_how_long_its_first_token_took(served: WorkerProcess) -> None:
    assert "of which the first token took" in served.log.read_text()


def model() -> Served:
    tokenizer, template = Tokenizer(EXAMPLE_MODEL), ChatTemplate(EXAMPLE_MODEL)
    grammars = Grammars(EXAMPLE_MODEL, 512, ())
    return Served((NAME,), tokenizer, template, (), 1024, 512, grammars)


@pytest.mark.anyio
async def test_a_worker_is_not_ready_before_its_engine_has_generated_a_token() -> None:
    client = FakeEngineClient()
    await client.start()
    client.engine.ready(vocab_size=512)
    probing = asyncio.create_task(prove(client, model()))
    request = await client.engine.added.get()
    assert request.max_tokens == 1
    assert not probing.done()
    client.engine.put(request, [1], FinishReason.LENGTH)
    await asyncio.wait_for(probing, PATIENCE)
    await client.engine.close()
    await client.stop()


@pytest.mark.anyio
async def test_an_engine_that_refuses_the_probe_is_no_engine() -> None:
    client = FakeEngineClient()
    await client.start()
    client.engine.ready(vocab_size=512)
    probing = asyncio.create_task(prove(client, model()))
    client.engine.refuse(await client.engine.added.get(), "no room")
    with pytest.raises(EngineDied, match="no room"):
        await asyncio.wait_for(probing, PATIENCE)
    await client.engine.close()
    await client.stop()
