"""vLLM's pods behind the gateway: what they say when they end, as a real one said it."""

import asyncio
from typing import Any

import pytest
import vllm_answers
from stream_auditor import Recording, record
from stub_worker import EVENTS, OK, StubWorker

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


async def ask(
    gateway: Any, path: str = CHAT, first_piece: asyncio.Event | None = None, **options: Any
) -> Recording:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **options}
    return await record(gateway.url, path, body, first_piece=first_piece)


async def blamed(gateway: Any, worker: StubWorker) -> int:
    found: int = (await gateway.workers()).workers[f"w{worker.port}"].failures
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_what_one_breaks_off_that_ends_is_answered_by_another(
    gateway: Any, stream: bool
) -> None:
    async with StubWorker("vllm_ending") as ending, StubWorker("stream" if stream else "json") as w:
        await gateway.serve(ending, w)
        while not ending.seen:  # equal workers are chosen among at random
            for recording in await asyncio.gather(*(ask(gateway, stream=stream) for _ in range(6))):
                assert recording.body == (b"".join(EVENTS) if stream else OK)
        assert await blamed(gateway, ending) == 0  # it left in good order


@pytest.mark.parametrize("script", ["vllm_ending", "vllm_begins"])
async def test_one_that_only_breaks_off_and_does_not_leave_is_put_aside_and_blamed(
    gateway: Any, script: str
) -> None:
    async with StubWorker(script) as ill, StubWorker("stream") as well:
        await gateway.serve(ill, well)

        async def until_blamed() -> bool:
            await asyncio.gather(*(ask(gateway, stream=True) for _ in range(4)))
            return await blamed(gateway, ill) > 0

        await gateway.until(until_blamed)
        before, asked = len(ill.seen), 30
        for _ in range(asked):
            await ask(gateway, stream=True)
        assert len(ill.seen) - before <= asked / 5, "only when a probe has found it well"


async def test_without_another_what_is_broken_off_is_an_error(gateway: Any) -> None:
    async with StubWorker("vllm_ending") as ending:
        await gateway.serve(ending)
        for stream in (False, True):
            recording = await ask(gateway, stream=stream)
            assert recording.status == 502
            assert recording.json()["error"]["code"] == "upstream_failed"


async def test_a_stream_that_is_broken_off_does_not_look_whole(gateway: Any) -> None:
    async with StubWorker("vllm_ended") as ended:
        await gateway.serve(ended)
        first = asyncio.Event()
        asking = asyncio.create_task(ask(gateway, stream=True, first_piece=first))
        await asyncio.wait_for(first.wait(), 60)
        ended.release.set()
        recording = await asking
        assert recording.body.startswith(vllm_answers.ROLE + vllm_answers.CHUNK)
        assert b"abort" not in recording.body
        assert b'"upstream_failed"' in recording.body
        assert b"[DONE]" not in recording.body
        assert not recording.clean_end


async def test_a_stream_of_a_dead_engine_is_answered_by_another(gateway: Any) -> None:
    async with StubWorker("vllm_broken") as dead, StubWorker("stream") as other:
        await gateway.serve(dead, other)
        while not dead.seen:  # equal workers are chosen among at random
            for recording in await asyncio.gather(*(ask(gateway, stream=True) for _ in range(6))):
                assert recording.body == b"".join(EVENTS)
        assert await blamed(gateway, dead) == len(dead.seen)


async def test_a_route_that_it_does_not_have_is_told_as_openai_tells_it(gateway: Any) -> None:
    async with StubWorker("vllm_generates") as worker:
        await gateway.serve(worker)
        recording = await ask(gateway, "/v1/embeddings", input="a")
        assert recording.status == 404
        assert recording.json()["error"]["code"] == "not_found"
        assert "/v1/embeddings" in recording.json()["error"]["message"]
