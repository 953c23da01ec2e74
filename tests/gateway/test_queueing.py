"""Requests that wait at the gateway until a worker has room."""

import asyncio
import re
from typing import Any

import plain_http
import pytest
from stream_auditor import Recording, record
from stub_worker import OK, StubWorker

from penstock_contract import headers
from penstock_contract.api import Role
from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetCanary, FleetClass, FleetDisaggregation, FleetQueue

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
BATCH = FleetClass(name="batch", priority=-10)
URGENT = FleetClass(name="urgent", priority=10)
DEFAULT = FleetClass(name="standard")


def queue(**changes: Any) -> FleetQueue:
    settings = {
        "per_worker": 1,
        "max_requests": 10,
        "timeout": 30.0,
        "cold_start_timeout": 30.0,
        "classes": (BATCH, URGENT, DEFAULT),
        "default": DEFAULT,
    }
    return FleetQueue(**{**settings, **changes})


async def ask(gateway: Any, tier: str = "", prompt: str = "hi") -> Recording:
    body = {"model": "m", "prompt": prompt, "service_tier": tier or "auto"}
    return await record(gateway.url, CHAT, body)


class Turnstile(StubWorker):
    """Answers one request at a time, each when it is told to."""

    def __init__(self, metrics: str = "") -> None:
        super().__init__("gated", metrics=metrics)
        self.tickets = asyncio.Semaphore(0)

    async def _gated(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await self.tickets.acquire()
        stream = b'"stream"' in self.seen[-1].body
        return await (self._stream if stream else self._json)(reader, writer)


async def waiting(gateway: Any, count: int) -> None:
    async def as_many() -> bool:
        return bool(await gateway.metric("penstock_gateway_queued") == count)

    await gateway.until(as_many)


async def seen(gateway: Any, worker: StubWorker, count: int) -> None:
    async def as_many() -> bool:
        return len(worker.seen) == count

    await gateway.until(as_many)


async def occupy(gateway: Any, worker: StubWorker) -> "asyncio.Task[Recording]":
    """Fill the only place of the only worker."""
    asking = asyncio.create_task(ask(gateway, prompt="first"))

    async def arrived() -> bool:
        return bool(worker.seen)

    await gateway.until(arrived)
    return asking


async def test_a_full_worker_gets_the_next_request_when_it_has_room(gateway: Any) -> None:
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue())
        first = await occupy(gateway, worker)
        others = [asyncio.create_task(ask(gateway)) for _ in range(3)]
        await waiting(gateway, 3)
        assert len(worker.seen) == 1
        for _ in range(4):
            worker.tickets.release()
        assert [(await asking).body for asking in (first, *others)] == [OK] * 4
        assert await gateway.metric("penstock_gateway_queued") == 0
        assert await gateway.metric("penstock_gateway_in_flight") == 0
        assert await gateway.metric("penstock_gateway_queue_seconds_count") == 4


async def test_a_higher_class_overtakes_and_the_lowest_is_shed_when_too_many_wait(
    gateway: Any,
) -> None:
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue(max_requests=2))
        first = await occupy(gateway, worker)
        batch = asyncio.create_task(ask(gateway, "batch", "b"))
        await waiting(gateway, 1)
        standard = asyncio.create_task(ask(gateway, "", "s"))
        await waiting(gateway, 2)
        urgent = asyncio.create_task(ask(gateway, "urgent", "u"))
        shed = await asyncio.wait_for(batch, 60)
        assert (shed.status, shed.json()["error"]["code"]) == (503, "no_capacity")
        assert int(shed.headers["retry-after"]) >= 1
        await waiting(gateway, 2)
        full = await ask(gateway, "", "too many")
        assert (full.status, full.json()["error"]["code"]) == (503, "no_capacity")
        assert "retry-after" in full.headers
        for _ in range(3):
            worker.tickets.release()
        await asyncio.gather(first, standard, urgent)
        assert [b'"u"' in seen.body for seen in worker.seen] == [False, True, False]


async def test_nobody_waits_longer_than_the_queue_allows(gateway: Any) -> None:
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue(timeout=0.2))
        first = await occupy(gateway, worker)
        late = await ask(gateway)
        assert late.status == 503
        assert "0.2 s" in late.json()["error"]["message"]
        worker.tickets.release()
        assert (await first).body == OK
        worker.tickets.release()
        assert (await ask(gateway)).body == OK


async def test_the_queues_time_is_over_when_the_waiting_is(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker, queue=queue(timeout=0.2))
        begun, body = asyncio.Event(), {"model": "m", "prompt": "hi", "stream": True}
        running = asyncio.create_task(record(gateway.url, CHAT, body, first_piece=begun))
        await begun.wait()
        assert (await ask(gateway)).status == 503  # after as long as the first one runs already
        worker.release.set()
        assert (await running).clean_end
        assert headers.DEADLINE.encode() not in worker.seen[0].head


async def test_a_client_that_stops_waiting_leaves_the_line(gateway: Any) -> None:
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue())
        first = await occupy(gateway, worker)
        impatient = asyncio.create_task(ask(gateway))
        await waiting(gateway, 1)
        impatient.cancel()
        await waiting(gateway, 0)
        worker.tickets.release()
        await first
        assert len(worker.seen) == 1
        assert await gateway.metric("penstock_gateway_outcomes_total", outcome="cancelled") == 1


async def test_without_a_worker_requests_wait_for_the_first_one(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(queue=queue(timeout=0.1))
        asking = asyncio.create_task(ask(gateway))
        await waiting(gateway, 1)
        await gateway.serve(worker, queue=queue(timeout=0.1))
        assert (await asyncio.wait_for(asking, 60)).body == OK


async def test_at_the_end_of_the_gateway_those_who_wait_are_told(
    gateway: Any, tmp_path: Any
) -> None:
    folder = tmp_path / "hurried"
    folder.mkdir()
    hurried = type(gateway)(folder, "--drain-timeout", "100ms")
    try:
        await hurried.start()
        await hurried.serve(queue=queue())
        asking = asyncio.create_task(ask(hurried))
        await waiting(hurried, 1)
        hurried.terminate()
        answer = await asyncio.wait_for(asking, 60)
        assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")
    finally:
        hurried.stop()


LONG = "word " * 4000
"""A prompt of half a second, by `MEASURED`."""
MEASURED = 'penstock_worker_step_cost_seconds{model_name="m",term="prefill_token"} 1e-4\n'


async def told(gateway: Any, workers: int = 1) -> None:
    """Wait until the gateway knows how fast so many workers are."""

    async def known() -> bool:
        return bool(gateway.said().count("of KV") >= workers)

    await gateway.until(known)


async def test_with_an_objective_for_first_tokens_prompts_wait_here_for_those_before_them(
    gateway: Any,
) -> None:
    async with Turnstile(MEASURED) as worker:
        await gateway.serve(worker, queue=queue(per_worker=100), ttft=2.0)
        await told(gateway)
        body = {"model": "m", "prompt": LONG, "stream": True}
        asking = [asyncio.create_task(record(gateway.url, CHAT, body)) for _ in range(3)]
        await waiting(gateway, 1)

        async def given() -> bool:
            return len(worker.seen) == 2  # as many as are given ahead, however long they take

        await gateway.until(given)
        worker.tickets.release()
        await waiting(gateway, 0)
        for _ in range(2):
            worker.tickets.release()
        assert [found.status for found in await asyncio.gather(*asking)] == [200] * 3
        assert len(worker.seen) == 3


async def test_without_one_a_worker_gets_all_that_it_can_run(gateway: Any) -> None:
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue(per_worker=100))
        body = {"model": "m", "prompt": LONG, "stream": True}
        asking = [asyncio.create_task(record(gateway.url, CHAT, body)) for _ in range(3)]

        async def arrived() -> bool:
            return len(worker.seen) == 3

        await gateway.until(arrived)
        for _ in range(3):
            worker.tickets.release()
        await asyncio.gather(*asking)


async def test_nobody_waits_for_an_answer_whose_first_token_cannot_be_seen(gateway: Any) -> None:
    async with Turnstile(MEASURED) as worker:
        await gateway.serve(worker, queue=queue(per_worker=100), ttft=2.0)
        await told(gateway)
        asking = [asyncio.create_task(ask(gateway, prompt=LONG)) for _ in range(4)]

        async def arrived() -> bool:
            return len(worker.seen) == 4  # none of them was answered

        await gateway.until(arrived)
        for _ in range(4):
            worker.tickets.release()
        assert [(await found).body for found in asking] == [OK] * 4


async def test_prompts_wait_for_prefill_workers_while_those_that_decode_are_idle(
    gateway: Any,
) -> None:
    always = FleetDisaggregation(mode=DisaggregationMode.ALWAYS)
    async with Turnstile(MEASURED) as prefill, StubWorker("stream") as decode:
        await gateway.serve(
            prefill, decode, roles={prefill: Role.PREFILL, decode: Role.DECODE},
            queue=queue(per_worker=100), disaggregation=always, ttft=2.0,
        )  # fmt: skip
        await told(gateway)
        body = {"model": "m", "prompt": LONG, "stream": True}
        asking = [asyncio.create_task(record(gateway.url, CHAT, body)) for _ in range(5)]
        await waiting(gateway, 3)
        await seen(gateway, prefill, 2)
        held = {"model": "m", "workers": "prefill"}
        assert await gateway.metric("penstock_gateway_held", **held) == 3
        async with plain_http.client(gateway.url) as client:
            page = (await client.get("/status")).text
        row = '<td>prefill</td><td class="n">3</td><td>workers have enough prompts</td>'
        assert row in page
        for _ in range(5):
            prefill.tickets.release()
        assert [found.status for found in await asyncio.gather(*asking)] == [200] * 5
        assert len(prefill.seen) == 5
        assert await gateway.metric("penstock_gateway_held", **held) == 0
        async with plain_http.client(gateway.url) as client:
            page = (await client.get("/status")).text
        assert re.search(r"waited=\d+\.\d+s for=prefill</span>", page)


async def test_prompts_of_a_revisions_sessions_wait_for_its_workers_alone(gateway: Any) -> None:
    async with Turnstile(MEASURED) as old, Turnstile(MEASURED) as new:
        await gateway.serve(
            old, new, revisions={old: "old", new: "new"},
            canary=FleetCanary(revision="new", weight=0),
            queue=queue(per_worker=100), ttft=2.0,
        )  # fmt: skip
        await told(gateway, 2)
        body = {"model": "m", "prompt": LONG, "stream": True}
        asking = [asyncio.create_task(record(gateway.url, CHAT, body)) for _ in range(5)]
        await waiting(gateway, 3)
        await seen(gateway, old, 2)
        assert not new.seen
        for _ in range(5):
            old.tickets.release()
        assert [found.status for found in await asyncio.gather(*asking)] == [200] * 5


async def test_it_is_told_when_no_worker_is_there_or_has_room(gateway: Any) -> None:
    async def page() -> str:
        async with plain_http.client(gateway.url) as client:
            return (await client.get("/status")).text

    await gateway.serve(queue=queue())
    first = asyncio.create_task(ask(gateway))
    await waiting(gateway, 1)
    assert "<td>no worker is ready</td>" in await page()
    async with Turnstile() as worker:
        await gateway.serve(worker, queue=queue())
        await waiting(gateway, 0)
        second = asyncio.create_task(ask(gateway))
        await waiting(gateway, 1)
        assert "<td>workers run as many requests as they can</td>" in await page()
        assert await gateway.metric("penstock_gateway_held") == 0
        worker.tickets.release()
        worker.tickets.release()
        assert [(await found).body for found in (first, second)] == [OK] * 2
