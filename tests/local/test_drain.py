"""Nothing that a client has begun is lost when workers go on purpose."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

Write = Callable[..., Path]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask(client: httpx.AsyncClient, url: str, tokens: int, begun: asyncio.Event) -> str:
    """Stream an answer; return how it ended."""
    body = {
        "model": "pydoc",
        "messages": [{"role": "user", "content": "Tell me everything."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    last = ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != httpx.codes.OK:
            return f"HTTP {answer.status_code} {await answer.aread()!r}"
        async for line in answer.aiter_lines():
            begun.set()
            last = line or last
    return last


@asynccontextmanager
async def clients(url: str, number: int) -> AsyncIterator[list[str]]:
    """Keep asking from so many clients while the block runs; the endings are complete after it."""
    endings: list[str] = []
    over = asyncio.Event()

    async def one(client: httpx.AsyncClient) -> None:
        while not over.is_set():
            endings.append(await ask(client, url, 24, asyncio.Event()))

    async with plain_http.client() as client:
        tasks = [asyncio.create_task(one(client)) for _ in range(number)]
        try:
            yield endings
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def test_a_rollout_and_a_scale_down_under_load_lose_no_request(
    machine: Any, manifest: Write
) -> None:
    await asyncio.to_thread(machine.up, manifest(replicas=2))
    before = set(machine.ready())
    async with clients(f"http://127.0.0.1:{machine.port}", 4) as endings:
        await asyncio.to_thread(machine.run, "up", manifest(replicas=2, engine="{maxNumSeqs: 8}"))
        assert before.isdisjoint(machine.ready())
        await asyncio.to_thread(machine.run, "scale", "small/default", "1")
        await asyncio.to_thread(
            machine.eventually, lambda: len(machine.workers()) == 1, "one worker is left"
        )
    assert len(endings) > 8
    assert set(endings) == {"data: [DONE]"}


async def test_down_lets_a_running_answer_finish(machine: Any, manifest: Write) -> None:
    await asyncio.to_thread(machine.up, manifest())
    begun = asyncio.Event()
    async with plain_http.client() as client:
        url = f"http://127.0.0.1:{machine.port}"
        answer = asyncio.create_task(ask(client, url, 600, begun))
        await begun.wait()
        await asyncio.to_thread(machine.run, "down")
        assert await answer == "data: [DONE]"
