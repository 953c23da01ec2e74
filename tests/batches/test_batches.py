"""Batches as OpenAI's client sees them, through a real gateway."""

import asyncio
import contextlib
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import batch_stack
import openai
import pytest
from batch_stack import CHAT, MODEL, QUEUE, Stack, jsonl, line, ordered, results, until
from stub_worker import StubWorker
from worker_process import worker as real_worker

from penstock_contract import headers
from penstock_contract.on_behalf import ENVIRONMENT

pytestmark = pytest.mark.anyio


COST = "penstock_worker_step_cost_seconds"
COSTS = {"step": 0.01, "prefill_token": 1e-6, "sequence": 0.005}


class Turnstile(StubWorker):
    """Answers one request for each ticket."""

    def __init__(self, tickets: int = 0) -> None:
        super().__init__("gated")
        self.tickets = asyncio.Semaphore(tickets)
        self.held = self.most = 0
        """Requests under way, and the most that there were."""

    async def _gated(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            return await self._let_in(reader, writer)
        finally:
            self.held -= 1

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        ticket = asyncio.ensure_future(self.tickets.acquire())
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({ticket, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():  # nobody wants the answer: the ticket is for the next one
                if ticket.done():
                    self.tickets.release()
                return False
        finally:
            ticket.cancel()
            gone.cancel()
        await self._json(reader, writer)
        return False  # what `gone` may have read belongs to the next request

    def open(self, tickets: int) -> None:
        for _ in range(tickets):
            self.tickets.release()


async def test_a_batch_is_answered_by_a_real_worker(stack: Stack, tmp_path: Path) -> None:
    client = stack.client()
    with real_worker(tmp_path / "worker.log") as worker:
        await stack.gateway.until(lambda: _healthy(worker))
        stack.serve([worker.url])
        batch = await ordered(client, jsonl(line(f"n{n}") for n in range(12)), metadata={"a": "b"})
        assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"a": "b"})
        assert batch.expires_at - batch.created_at == 86400
        done = await until(client, batch.id, "completed")
    assert (done.request_counts.total, done.request_counts.completed) == (12, 12)
    assert done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert done.error_file_id is None
    found = await results(client, done.output_file_id)
    assert [one["custom_id"] for one in found] == [f"n{n}" for n in range(12)]
    for one in found:
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        assert one["response"]["request_id"]
        answer = one["response"]["body"]
        assert answer["object"] == "chat.completion"
        assert answer["usage"]["completion_tokens"] == 4
    file = await client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")


@pytest.mark.parametrize(
    ("endpoint", "body", "shape"),
    [
        ("/v1/completions", {"prompt": "A list", "max_tokens": 2}, "text_completion"),
        ("/v1/responses", {"input": "What is a list?", "max_output_tokens": 2}, "response"),
    ],
)
async def test_other_endpoints_are_answered_in_their_own_shape(
    stack: Stack, tmp_path: Path, endpoint: str, body: dict[str, Any], shape: str
) -> None:
    client = stack.client()
    with real_worker(tmp_path / "worker.log") as worker:
        await stack.gateway.until(lambda: _healthy(worker))
        stack.serve([worker.url])
        request = {"custom_id": "a", "method": "POST", "url": endpoint}
        content = jsonl([{**request, "body": {"model": MODEL, **body}}])
        done = await until(
            client, (await ordered(client, content, endpoint=endpoint)).id, "completed"
        )
    (found,) = await results(client, done.output_file_id)
    assert found["response"]["body"]["object"] == shape


async def _healthy(worker: Any) -> bool:
    return bool(worker.health()[0] == 200)


async def test_a_service_that_is_killed_goes_on_and_each_request_has_one_line(stack: Stack) -> None:
    client = stack.client()
    wanted = [f"n{n}" for n in range(40)]
    async with Turnstile(tickets=7) as worker:
        stack.serve([worker.url])
        batch = await ordered(client, jsonl(map(line, wanted)))

        async def some_are_kept() -> bool:
            kept = (await client.batches.retrieve(batch.id)).request_counts
            return kept is not None and kept.completed == 7 and len(worker.seen) > 7

        await stack.gateway.until(some_are_kept)
        stack.service.kill()
        await stack.service.start()
        for _ in range(3):  # what was under way is asked again, and interrupted again
            asked = len(worker.seen)
            worker.open(2)
            await stack.gateway.until(partial(_more, worker, asked))
            stack.service.kill()
            await stack.service.start()
        worker.open(100)
        done = await until(client, batch.id, "completed")
    assert len(worker.seen) > 40
    assert done.request_counts.completed == 40
    assert [one["custom_id"] for one in await results(client, done.output_file_id)] == wanted


async def _more(worker: StubWorker, than: int) -> bool:
    return len(worker.seen) > than


async def test_a_cancelled_batch_keeps_what_it_has(stack: Stack) -> None:
    client = stack.client()
    async with Turnstile(tickets=3) as worker:
        stack.serve([worker.url])
        batch = await ordered(client, jsonl(line(f"n{n}") for n in range(20)))

        async def three_are_done() -> bool:
            found = (await client.batches.retrieve(batch.id)).request_counts
            return found is not None and found.completed == 3 and len(worker.seen) > 3

        await stack.gateway.until(three_are_done)
        cancelling = await client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        done = await until(client, batch.id, "cancelled")
        await asyncio.wait_for(_in_flight_ends(stack), 60)
    found = await results(client, done.output_file_id)
    errors = await results(client, done.error_file_id)
    assert len(found) == 3
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert sorted(one["custom_id"] for one in found + errors) == sorted(f"n{n}" for n in range(20))
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        await client.batches.cancel(batch.id)


async def _in_flight_ends(stack: Stack) -> None:
    while await stack.gateway.metric("penstock_gateway_spare_in_flight"):
        await asyncio.sleep(0.02)


async def test_what_is_not_done_in_time_expires(stack: Stack) -> None:
    client = stack.client()
    for window in ("5s", "20s", "80s"):  # two answers take long on a busy machine
        async with Turnstile(tickets=2) as worker:
            stack.serve([worker.url])
            content = jsonl(line(f"n{n}") for n in range(8))
            batch = await ordered(client, content, completion_window=window)
            done = await until(client, batch.id, "expired")
        if done.request_counts.completed == 2:
            break
    errors = await results(client, done.error_file_id)
    assert len(await results(client, done.output_file_id)) == 2
    assert [one["error"]["code"] for one in errors] == ["batch_expired"] * 6
    assert done.expired_at >= done.expires_at


async def test_a_window_that_ended_while_nobody_was_there_expires(stack: Stack) -> None:
    client = stack.client()
    batch = await ordered(client, jsonl([line("one")]))
    await until(client, batch.id, "in_progress")
    stack.service.kill()
    with closing(sqlite3.connect(stack.service.folder / "batches.db")) as database, database:
        database.execute(
            "UPDATE batches SET document = json_set(CAST(document AS TEXT), '$.expires', ?)",
            (int(time.time()) - 1,),
        )
    await stack.service.start()
    done = await until(client, batch.id, "expired")
    assert [one["custom_id"] for one in await results(client, done.error_file_id)] == ["one"]


async def test_a_worker_that_fails_is_asked_again_and_then_no_more(stack: Stack) -> None:
    client = stack.client()
    async with StubWorker("failing") as worker:
        stack.serve([worker.url])
        batch = await ordered(client, jsonl([line("one")]))
        done = await until(client, batch.id, "completed")
    (error,) = await results(client, done.error_file_id)
    assert error["response"]["status_code"] >= 500
    assert len(worker.seen) >= 3


async def test_a_batch_takes_what_is_to_spare_and_leaves_the_rest(stack: Stack) -> None:
    """Interactive requests find a place at once while a batch has all that it may have."""
    client = stack.client()
    async with Turnstile(tickets=6) as worker:  # answers open the window
        stack.serve([worker.url])
        batch = await ordered(client, jsonl(line(f"n{n}") for n in range(30)))

        async def full() -> bool:
            return bool(await stack.gateway.metric("penstock_gateway_spare_in_flight") == 6)

        async def asks_for_more() -> bool:
            return await stack.service.metric("penstock_batch_backoffs_total", status="503") > 0

        await stack.gateway.until(full)
        await stack.gateway.until(asks_for_more)
        chat: Any = client.chat.completions.with_raw_response
        messages = [{"role": "user", "content": "now"}]
        asked = [asyncio.create_task(chat.create(model=MODEL, messages=messages)) for _ in range(2)]

        async def both_run() -> bool:
            return bool(await stack.gateway.metric("penstock_gateway_in_flight") == 2)

        await stack.gateway.until(both_run)
        assert await stack.gateway.metric("penstock_gateway_queued") == 0
        assert await stack.gateway.metric("penstock_gateway_arrivals_total") == 2
        interactive = [seen for seen in worker.seen if b'"now"' in seen.body]
        priority = headers.PRIORITY.encode()
        assert len(interactive) == 2
        assert not any(priority in seen.head for seen in interactive)
        of_batch = [seen for seen in worker.seen if seen not in interactive]
        assert all(priority + b": -10" in seen.head for seen in of_batch)
        worker.open(100)
        await asyncio.gather(*asked)
        done = await until(client, batch.id, "completed")
    assert done.request_counts.completed == 30


async def test_a_batch_takes_no_more_places_than_keep_the_pace(stack: Stack) -> None:
    """Four sequences take 30 ms in each step, five would take 35: three quarters of 44 are 33."""
    client = stack.client()
    async with Turnstile(tickets=6) as worker:
        worker.metrics = "".join(f'{COST}{{term="{t}"}} {v}\n' for t, v in COSTS.items())
        stack.serve([worker.url], tpot=0.044)
        await stack.gateway.until(lambda: _said(stack, "Speed(start=0.01"))
        batch = await ordered(client, jsonl(line(f"n{n}") for n in range(20)))

        async def asked_for_more() -> bool:
            backed_off = await stack.service.metric("penstock_batch_backoffs_total", status="503")
            return worker.tickets.locked() and backed_off > 0

        await stack.gateway.until(asked_for_more)
        worker.open(100)
        done = await until(client, batch.id, "completed")
    assert done.request_counts.completed == 20
    assert worker.most == 4


async def _said(stack: Stack, words: str) -> bool:
    return words in stack.gateway.said()


async def test_several_gateways_let_no_more_through_together_than_one(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with (
        Turnstile(tickets=12) as worker,
        balanced() as (front, targets),
        batch_stack.stack(tmp_path, f"--gateway={front}") as stack,
    ):
        other = stack.another_gateway(tmp_path / "other")
        try:
            await other.start()
            targets += [stack.gateway.port, other.port]
            stack.serve([worker.url])
            client = stack.client()
            batch = await ordered(client, jsonl(line(f"n{n}") for n in range(40)))

            async def shares() -> list[float]:
                name = "penstock_gateway_spare_in_flight"
                return [await found.metric(name) for found in (stack.gateway, other)]

            async def full() -> bool:
                backed_off = await stack.service.metric("penstock_batch_backoffs_total")
                return worker.tickets.locked() and backed_off > 0 and all(await shares())

            await stack.gateway.until(full)
            worker.open(100)
            done = await until(client, batch.id, "completed")
        finally:
            other.stop()
    assert done.request_counts.completed == 40
    assert worker.most <= 6, "what one gateway lets through"


@contextlib.asynccontextmanager
async def balanced() -> AsyncIterator[tuple[str, list[int]]]:
    """Yield the URL of what gives each connection to the next one of some ports, as a Service."""
    targets: list[int] = []
    turns = itertools.count()
    open_ones: set[asyncio.StreamWriter] = set()

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                writer.write(piece)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not targets:
            writer.close()
            return
        port = targets[next(turns) % len(targets)]
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, there_writer), copied(there_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", targets
    finally:
        server.close()
        for writer in open_ones:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in open_ones), return_exceptions=True)


async def test_a_saturated_pool_pauses_a_batch(stack: Stack) -> None:
    client = stack.client()
    async with Turnstile() as worker:
        stack.serve([worker.url])
        chat: Any = client.chat.completions.with_raw_response
        messages = [{"role": "user", "content": "now"}]
        asked = [
            asyncio.create_task(chat.create(model=MODEL, messages=messages)) for _ in range(12)
        ]

        async def some_wait() -> bool:
            return bool(await stack.gateway.metric("penstock_gateway_queued") == 4)

        await stack.gateway.until(some_wait)
        batch = await ordered(client, jsonl([line("one"), line("two")]))

        async def backs_off() -> bool:
            return await stack.service.metric("penstock_batch_backoffs_total", status="503") > 0

        await stack.gateway.until(backs_off)
        assert await stack.gateway.metric("penstock_gateway_spare_arrivals_total") == 0
        assert await stack.gateway.metric("penstock_gateway_queued") == 4
        worker.open(100)
        await asyncio.gather(*asked)
        done = await until(client, batch.id, "completed")
    assert done.request_counts.completed == 2


async def test_a_batch_wakes_a_pool_without_workers(stack: Stack) -> None:
    client = stack.client()
    batch = await ordered(client, jsonl([line("one")]))

    async def waits() -> bool:
        return bool(await stack.gateway.metric("penstock_gateway_queued") == 1)

    await stack.gateway.until(waits)
    async with StubWorker("json") as worker:
        stack.serve([worker.url])
        await until(client, batch.id, "completed")


async def test_tenants_see_their_own_alone_and_are_charged(served: Stack) -> None:
    served.admit(ann={"models": [MODEL]}, bob={})
    ann, bob = await served.known("ann"), await served.known("bob")
    batch = await ordered(ann, jsonl([line("one")]))
    done = await until(ann, batch.id, "completed")
    for asked in (
        bob.batches.retrieve(batch.id),
        bob.batches.cancel(batch.id),
        bob.files.retrieve(batch.input_file_id),
        bob.files.content(done.output_file_id),
        bob.files.delete(batch.input_file_id),
        bob.batches.create(
            input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await asked
    assert (await bob.files.list()).data == []
    assert (await bob.batches.list()).data == []
    assert [found.id for found in (await ann.batches.list()).data] == [batch.id]
    charged = await served.gateway.metric("penstock_gateway_tenant_requests_total", tenant="ann")
    assert charged == 1
    with pytest.raises(openai.AuthenticationError):
        await served.client("eve").files.list()


async def test_a_batch_may_use_no_model_that_its_tenant_may_not(served: Stack) -> None:
    served.admit(ann={"models": ["another"]})
    ann = await served.known("ann")
    done = await until(ann, (await ordered(ann, jsonl([line("one")]))).id, "completed")
    (error,) = await results(ann, done.error_file_id)
    assert error["response"]["body"]["error"]["code"] == "model_not_found"


async def test_a_limit_of_its_tenant_slows_a_batch_and_fails_nothing(served: Stack) -> None:
    served.admit(ann={"limits": {"concurrency": 1}})
    ann = await served.known("ann")
    batch = await ordered(ann, jsonl(line(f"n{n}") for n in range(20)))
    done = await until(ann, batch.id, "completed")
    assert done.request_counts.completed == 20


async def test_files_and_batches_count_among_the_requests_of_a_minute(served: Stack) -> None:
    served.admit(ann={"limits": {"requestsPerMinute": 3}}, bob={})
    ann, bob = await served.known("ann"), await served.known("bob")
    file = await ann.files.create(file=("input.jsonl", jsonl([line("one")])), purpose="batch")
    listed = await ann.files.with_raw_response.list()
    assert listed.headers["x-ratelimit-limit-requests"] == "3"
    assert listed.headers["x-ratelimit-remaining-requests"] == "1"
    await ann.batches.list()
    with pytest.raises(openai.RateLimitError) as refused:
        await ann.files.content(file.id)
    assert refused.value.code == "rate_limit_exceeded"
    assert float(refused.value.response.headers["retry-after"]) > 0
    assert (await bob.files.list()).data == []
    told = {"tenant": "ann", "code": "rate_limit_exceeded"}
    assert await served.gateway.metric("penstock_gateway_tenant_refusals_total", **told) == 1


async def test_a_gateway_of_several_processes_runs_a_batch(tmp_path: Path) -> None:
    async with (
        Turnstile(tickets=12) as worker,
        batch_stack.stack(tmp_path, gateway_flags=("--processes=2",)) as stack,
    ):
        stack.serve([worker.url])
        client = stack.client()
        batch = await ordered(client, jsonl(line(f"n{n}") for n in range(40)))

        async def asks_for_more() -> bool:
            backed_off = await stack.service.metric("penstock_batch_backoffs_total", status="503")
            return backed_off > 0 and len(worker.seen) > 12

        await stack.gateway.until(asks_for_more)
        worker.open(100)
        done = await until(client, batch.id, "completed")
    assert done.request_counts.completed == 40


async def test_without_the_service_its_paths_say_so(tmp_path: Path) -> None:
    async with batch_stack.stack(tmp_path) as stack:
        stack.service.kill()
        with pytest.raises(openai.InternalServerError, match="does not answer"):
            await stack.client().files.list()


async def test_a_service_with_another_token_is_no_fault_of_the_client(stack: Stack) -> None:
    """As in the moments in which a token is replaced, or a release upgraded."""
    stack.service.kill()
    stack.service.environment[ENVIRONMENT] = "a-token-of-another-day"
    await stack.service.start()
    with pytest.raises(openai.InternalServerError, match="does not know this gateway"):
        await stack.client().files.list()


async def test_it_ends_in_good_order_and_goes_on(stack: Stack) -> None:
    client = stack.client()
    async with Turnstile() as worker:
        stack.serve([worker.url], QUEUE)
        batch = await ordered(client, jsonl([line("one")]))
        await stack.gateway.until(lambda: _more(worker, 0))
        assert stack.service.terminate() == 0
        await stack.service.start()
        worker.open(10)
        await until(client, batch.id, "completed")
