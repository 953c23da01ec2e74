"""Prompts that wait at the gateway for workers that do not say what they cost, as vLLM."""

import asyncio
from typing import Any

import pytest
from stream_auditor import record
from stub_worker import StubWorker

from penstock_contract.fleet import FleetClass, FleetQueue

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
QUEUE = FleetQueue(
    per_worker=100, max_requests=100, timeout=60.0, default=FleetClass(name="standard")
)
KILOBYTE = 0.02
"""Seconds that one takes to compute."""
COST = "penstock_gateway_prompt_token_seconds"


class Silent(StubWorker):
    """Computes prompts, one after the other, and says nothing of itself."""

    def __init__(self) -> None:
        super().__init__("computed", metrics="vllm:num_requests_running 0.0\n")
        self.turn = asyncio.Lock()
        self.stopped = asyncio.Event()
        self.stopped.set()

    async def _computed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        size = len(self.seen[-1].body)
        async with self.turn:
            await asyncio.sleep(size / 1024 * KILOBYTE)
        await self.stopped.wait()
        return await self._stream(reader, writer)


def asking(gateway: Any, size: int) -> "asyncio.Task[Any]":
    body = {"model": "m", "prompt": "word " * (size // 5), "stream": True}
    return asyncio.create_task(record(gateway.url, CHAT, body))


async def test_they_are_held_as_soon_as_first_tokens_have_shown_what_they_cost(
    gateway: Any,
) -> None:
    async with Silent() as worker:
        await gateway.serve(worker, queue=QUEUE, ttft=2.0)
        assert await gateway.metric(COST, model="m") == 0

        async def learned() -> bool:
            await asyncio.gather(*(asking(gateway, size) for size in (100, 2000, 5000)))
            return bool(await gateway.metric(COST, model="m") > 0)

        await gateway.until(learned)
        worker.stopped.clear()
        before = len(worker.seen)
        found = [asking(gateway, 80_000) for _ in range(5)]

        async def held() -> bool:
            return bool(await gateway.metric("penstock_gateway_held", model="m") == 3)

        await gateway.until(held)
        assert len(worker.seen) - before == 2
        worker.stopped.set()
        assert [answer.status for answer in await asyncio.gather(*found)] == [200] * 5


async def test_nothing_is_held_before_that(gateway: Any) -> None:
    async with Silent() as worker:
        await gateway.serve(worker, queue=QUEUE, ttft=2.0)
        worker.stopped.clear()
        found = [asking(gateway, 20_000) for _ in range(9)]

        async def all_there() -> bool:
            return len(worker.seen) == len(found)

        await gateway.until(all_there)
        worker.stopped.set()
        assert [answer.status for answer in await asyncio.gather(*found)] == [200] * 9
