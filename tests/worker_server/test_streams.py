"""How streams begin, go on and end, step by step, with an engine that the test plays by hand."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from fake_engine import FakeEngine, FakeEngineClient
from prometheus_client import CollectorRegistry
from stream_auditor import Recording, audit, record
from waiting import PATIENCE
from worker_process import EXAMPLE_MODEL, NAME

from penstock_contract.errors import ErrorCode
from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse
from penstock_worker.grammar import Grammars
from penstock_worker.messages import AddRequest, FinishReason
from penstock_worker.server.app import create_app
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.served import Served
from penstock_worker.server.service import Service
from penstock_worker.text.chat_template import ChatTemplate
from penstock_worker.text.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
VOCABULARY = 4096


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process is pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Stand:
    """A served model whose engine the test plays."""

    def __init__(self, url: str, service: Service, engine: FakeEngine, tokenizer: Tokenizer):
        self.url = url
        self.service = service
        self.engine = engine
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    async def added(self) -> AddRequest:
        return await asyncio.wait_for(self.engine.added.get(), PATIENCE)

    async def aborted(self) -> str:
        return await asyncio.wait_for(self.engine.aborted.get(), PATIENCE)


@pytest.fixture
async def stand(tokenizer: Tokenizer) -> AsyncIterator[Stand]:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, NAME)
    client = FakeEngineClient(metrics.batch)
    await client.start()
    service = Service((NAME,), client, metrics)
    client.engine.ready(VOCABULARY)
    ready = await client.ready
    service.served = Served(
        (NAME,),
        tokenizer,
        ChatTemplate(EXAMPLE_MODEL),
        (1,),
        ready.max_model_len,
        VOCABULARY,
        Grammars(EXAMPLE_MODEL, VOCABULARY, (1,)),
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(service, registry),
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield Stand(url, service, client.engine, tokenizer)
        server.should_exit = True
        await serving
    await client.engine.close()
    await client.stop()


def chat(**options: Any) -> dict[str, Any]:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }


async def test_a_chunk_leaves_when_its_token_is_made(stand: Stand) -> None:
    first = asyncio.Event()
    reading = asyncio.create_task(record(stand.url, CHAT, chat(), first_piece=first))
    request = await stand.added()
    tokens = stand.ids("A list is mutable")
    stand.engine.put(request, tokens[:1])
    await asyncio.wait_for(first.wait(), PATIENCE)  # nothing more was made, and it is there
    stand.engine.put(request, tokens[1:], FinishReason.LENGTH)
    verdict = audit(await reading, include_usage=True)
    assert (verdict.violations, verdict.outcome) == ([], "complete")
    assert verdict.texts == {0: "A list is mutable"}
    assert verdict.finish_reasons == {0: "length"}


async def test_choices_interleave_and_each_ends_once(stand: Stand) -> None:
    reading = asyncio.create_task(record(stand.url, CHAT, chat(n=3)))
    requests = [await stand.added() for _ in range(3)]
    assert [request.sampling.choice for request in requests] == [0, 1, 2]
    assert len({request.sampling.seed for request in requests}) == 1
    for request in requests:
        stand.engine.put(request, stand.ids("one"))
    for request in reversed(requests):
        stand.engine.put(request, stand.ids(" two"), FinishReason.LENGTH)
    verdict = audit(await reading, include_usage=True, choices=3)
    assert (verdict.violations, verdict.outcome) == ([], "complete")
    assert verdict.texts == {0: "one two", 1: "one two", 2: "one two"}


async def test_every_event_is_whole_utf8_though_tokens_are_not(stand: Stand) -> None:
    reading = asyncio.create_task(record(stand.url, CHAT, chat()))
    request = await stand.added()
    for token in stand.ids("日本語 𓀀 ok"):
        stand.engine.put(request, [token])
    stand.engine.put(request, [1], FinishReason.STOP)
    verdict = audit(await reading, include_usage=True)
    assert (verdict.violations, verdict.outcome) == ([], "complete")
    assert verdict.texts == {0: "日本語 𓀀 ok"}


async def test_a_stop_string_ends_the_request_in_the_engine_too(stand: Stand) -> None:
    reading = asyncio.create_task(record(stand.url, CHAT, chat(stop="END")))
    request = await stand.added()
    for token in stand.ids("before END after"):
        stand.engine.put(request, [token])
    assert await stand.aborted() == request.id
    verdict = audit(await reading, include_usage=True)
    assert (verdict.violations, verdict.outcome) == ([], "complete")
    assert verdict.texts == {0: "before "}
    assert verdict.finish_reasons == {0: "stop"}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_client_that_leaves_aborts_all_its_choices(stand: Stand, stream: bool) -> None:
    options = {} if stream else {"stream": False, "stream_options": None}
    reading = asyncio.create_task(record(stand.url, CHAT, chat(n=2, **options)))
    requests = [await stand.added() for _ in range(2)]
    reading.cancel()
    assert {await stand.aborted(), await stand.aborted()} == {request.id for request in requests}


async def test_an_engine_that_dies_ends_streams_with_an_error_and_uncleanly(stand: Stand) -> None:
    first = asyncio.Event()
    reading = asyncio.create_task(record(stand.url, CHAT, chat(), first_piece=first))
    stand.engine.put(await stand.added(), stand.ids("half"))
    await asyncio.wait_for(first.wait(), PATIENCE)
    stand.engine.die()
    verdict = audit(await reading, include_usage=True)
    assert (verdict.violations, verdict.outcome) == ([], "error")
    assert verdict.error is not None
    assert verdict.error["code"] == "internal_error"


async def test_an_engine_that_dies_fails_whole_answers_with_500(stand: Stand) -> None:
    payload = chat(stream=False, stream_options=None)
    reading = asyncio.create_task(record(stand.url, CHAT, payload))
    stand.engine.put(await stand.added(), stand.ids("half"))
    stand.engine.die()
    recording = await reading
    assert recording.status == 500
    assert recording.json()["error"]["code"] == "internal_error"
    assert stand.service.state == "failed"
    assert (await record(stand.url, CHAT, payload)).status == 503


async def test_what_fails_before_the_first_event_has_a_status_of_its_own(stand: Stand) -> None:
    reading = asyncio.create_task(record(stand.url, CHAT, chat()))
    stand.engine.refuse(await stand.added(), "it can never fit")
    recording = await reading
    assert recording.status == 400
    assert "never fit" in recording.json()["error"]["message"]


async def test_draining_refuses_new_requests_and_finishes_running_ones(stand: Stand) -> None:
    reading = asyncio.create_task(record(stand.url, CHAT, chat()))
    request = await stand.added()
    # The headers come with the first event at the latest: the request runs.
    stand.engine.put(request, stand.ids("one"))
    draining = asyncio.create_task(stand.service.drain(PATIENCE))
    await asyncio.sleep(0)
    refused = await record(stand.url, CHAT, chat())
    assert refused.status == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert float(refused.headers["retry-after"]) >= 1
    assert not draining.done()
    stand.engine.put(request, stand.ids(" two"), FinishReason.LENGTH)
    assert audit(await reading, include_usage=True).texts == {0: "one two"}
    assert await draining


async def test_a_reader_that_does_not_read_delays_nobody_else(stand: Stand) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stand.url.rpartition(":")[2]))
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    body = json.dumps(chat(max_tokens=1000)).encode()
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    stuck = await stand.added()
    for _ in range(1000):
        stand.engine.put(stuck, stand.ids(" word"))
    answering = asyncio.create_task(record(stand.url, CHAT, chat()))
    stand.engine.put(await stand.added(), stand.ids("other"), FinishReason.LENGTH)
    other: Recording = await asyncio.wait_for(answering, PATIENCE)
    assert audit(other, include_usage=True).outcome == "complete"
    writer.close()
    assert await stand.aborted() == stuck.id


async def test_characters_cut_by_a_resumption_come_out_whole_and_once(stand: Stand) -> None:
    text = "日本語 𓀀 <é>"
    tokens = stand.ids(text)
    payload = chat(stop="<never>")
    journal = {JOURNAL: "1"}
    for shown in range(1, len(tokens)):
        choices = [{"index": 0, "tokens": tokens[:shown]}]
        resume = {"id": "chatcmpl-1", "created": 1, "seed": 1, "choices": choices}
        reading = asyncio.create_task(
            record(stand.url, CHAT, {**payload, FIELD: resume}, headers=journal)
        )
        request = await stand.added()
        assert request.output == tokens[:shown]
        for token in tokens[shown:]:
            stand.engine.put(request, [token])
        stand.engine.put(request, [1], FinishReason.STOP)
        verdict = audit(await reading, include_usage=True)
        rest = verdict.texts[0]
        whole = stand.tokenizer.decode(tokens[:shown])
        assert text.endswith(rest)
        # What was shown before is what is whole of the first tokens, but for a possible stop.
        assert whole.rstrip("\ufffd").startswith(text[: len(text) - len(rest)])
        assert verdict.usage is not None
        assert verdict.usage["completion_tokens"] == len(tokens) + 1


async def test_what_a_leaving_worker_cannot_finish_is_handed_back(stand: Stand) -> None:
    first = asyncio.Event()
    reading = asyncio.create_task(
        record(stand.url, CHAT, chat(n=2), first_piece=first, headers={JOURNAL: "1"})
    )
    one, other = await stand.added(), await stand.added()
    stand.engine.put(one, stand.ids("A"))
    await asyncio.wait_for(first.wait(), PATIENCE)
    waiting = asyncio.create_task(record(stand.url, CHAT, chat(stream=False, stream_options=None)))
    third = await stand.added()
    assert not await stand.service.drain(0.0)
    await stand.service.hand_back()
    recording = await reading
    verdict = audit(recording, include_usage=True, choices=2)
    assert (verdict.violations, verdict.outcome) == ([], "error")
    assert verdict.error is not None
    assert verdict.error["code"] == ErrorCode.HANDED_BACK.code
    resume = parse(recording.body).resume
    assert resume is not None
    assert [list(choice.tokens) for choice in resume.choices] == [stand.ids("A")]
    refused = await waiting
    assert refused.status == ErrorCode.HANDED_BACK.status
    assert {await stand.aborted() for _ in range(3)} == {one.id, other.id, third.id}
