"""Every request is accounted for once, whatever became of it."""

import asyncio
import itertools
import re
from typing import Any

import pytest
from stream_auditor import record
from stub_worker import EVENTS, StubWorker

from penstock_contract.metrics.gateway import GATEWAY, GATEWAY_HELD

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
CHATTING = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Slow(StubWorker):
    """Sends the head of a stream at once and its first event when released."""

    async def _late(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        await self.release.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS[0]), EVENTS[0]))
        await writer.drain()
        return False


async def test_every_declared_metric_is_exported_and_kept(gateway: Any) -> None:
    async with StubWorker("die") as bad, StubWorker() as good:
        await gateway.serve(bad, good)
        for letter in itertools.count(ord("a")):  # equal workers are chosen among at random
            asking = CHATTING | {"prompt": chr(letter) * 5000}
            await asyncio.gather(*(record(gateway.url, CHAT, asking) for _ in range(8)))
            if bad.seen:
                break
        await record(gateway.url, CHAT, {"model": "nobody"})
        text = (await gateway.get("/metrics")).text
        for metric in GATEWAY:
            assert f"\n# TYPE {metric.exported_name} {metric.kind.value}\n" in "\n" + text
            if "tenant" not in metric.labels and metric is not GATEWAY_HELD:  # there are none here
                assert re.search(rf"^{metric.name}(_total|_count)?[ {{]", text, re.MULTILINE)
        assert await gateway.metric("penstock_gateway_retries_total", model="m") >= 1
        assert await gateway.metric("penstock_gateway_workers", state="Ready") == 2


@pytest.mark.parametrize("script", ["json", "stream", "refuse", "die", "garbage", "cut", "short"])
async def test_each_of_many_requests_at_once_has_exactly_one_outcome(
    gateway: Any, script: str
) -> None:
    async with StubWorker(script) as worker, StubWorker(script) as other:
        await gateway.serve(worker, other)
        asked = [record(gateway.url, CHAT, CHATTING | {"user": f"{n}"}) for n in range(32)]
        await asyncio.gather(*asked)

        async def settled() -> bool:
            return bool(await gateway.metric("penstock_gateway_in_flight") == 0)

        await gateway.until(settled)
        assert await gateway.metric("penstock_gateway_arrivals_total") == 32
        assert await gateway.metric("penstock_gateway_outcomes_total") == 32
        expected = "complete" if script in ("json", "stream", "refuse") else "error"
        assert await gateway.metric("penstock_gateway_outcomes_total", outcome=expected) == 32
        assert await gateway.metric("penstock_gateway_request_duration_seconds_count") == 32


async def test_a_name_and_its_alias_are_counted_as_one_model(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        for name in ("m", "org/alias"):
            await record(gateway.url, CHAT, CHATTING | {"model": name})
        assert await gateway.metric("penstock_gateway_arrivals_total", model="m") == 2


async def test_the_first_byte_is_one_of_the_body(gateway: Any) -> None:
    async with Slow("late") as worker:
        await gateway.serve(worker)
        asking = asyncio.create_task(record(gateway.url, CHAT, CHATTING | {"stream": True}))

        async def arrived() -> bool:
            return bool(worker.seen)

        await gateway.until(arrived)
        # Nothing but the head can be there by now, however long one waits.
        await asyncio.sleep(0.3)
        early = await gateway.metric("penstock_gateway_time_to_first_byte_seconds_count")
        worker.release.set()
        await asking
        late = await gateway.metric("penstock_gateway_time_to_first_byte_seconds_count")
        assert (early, late) == (0, 1)
