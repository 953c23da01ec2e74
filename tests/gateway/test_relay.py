"""The gateway between clients and workers that misbehave.

Covered: what reaches a worker, what comes back, and every way in which a worker can fail. The
gateway is the real process; the workers are stubs, since a real one does not fail on cue.
"""

import asyncio
import json
from typing import Any

import plain_http
import pytest
from stream_auditor import Recording, record
from stub_worker import EVENTS, OK, StubWorker

from penstock_contract import headers

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def body(**options: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **options}


async def ask(gateway: Any, **options: Any) -> Recording:
    return await record(gateway.url, CHAT, body(**options))


async def test_bytes_pass_through_untouched(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        sent = b'{ "model" : "org/alias",  "messages":[], "x": 1.0 }'
        async with plain_http.client() as client:
            answer = await client.post(
                gateway.url + CHAT,
                content=sent,
                headers={
                    "content-type": "application/json",
                    "authorization": "Bearer secret",
                    "x-penstock-priority": "99",
                    "x-request-id": "mine-1",
                    "traceparent": "00-abc",
                },
            )
        assert worker.seen[0].body == sent
        head = worker.seen[0].head.lower()
        assert b"x-request-id: mine-1\r\n" in head
        assert b"traceparent: 00-abc\r\n" in head
        assert b"authorization" not in head
        assert b"x-penstock-priority" not in head
        assert answer.content == OK
        assert answer.headers["x-request-id"] == "mine-1"
        assert answer.headers["x-penstock-worker"] == f"w{worker.port}"
        assert "x-penstock-epoch" not in answer.headers
        assert "keep-alive" not in answer.headers


@pytest.mark.parametrize(("tpot", "told"), [(0.05, [b"0.05"]), (None, [])])
async def test_a_worker_hears_the_pace_that_its_deployment_asks_for(
    gateway: Any, tpot: float | None, told: list[bytes]
) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker, tpot=tpot)
        await ask(gateway)
        lines = worker.seen[0].head.lower().split(b"\r\n")
        name = headers.TPOT_OBJECTIVE.encode() + b": "
        assert [line.removeprefix(name) for line in lines if line.startswith(name)] == told


async def test_connections_to_workers_are_reused_and_replaced_when_dead(gateway: Any) -> None:
    for script in ("json", "json_once"):
        async with StubWorker(script) as worker:
            await gateway.serve(worker)
            for _ in range(3):
                assert (await ask(gateway)).body == OK


async def test_a_stream_passes_event_by_event(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        first = asyncio.Event()
        reading = asyncio.create_task(
            record(gateway.url, CHAT, body(stream=True), first_piece=first)
        )
        # The first event is here although the worker has not sent the second.
        await asyncio.wait_for(first.wait(), 60)
        worker.release.set()
        recording = await reading
        assert recording.body == EVENTS[0] + EVENTS[-1]
        assert recording.clean_end


async def test_a_client_that_leaves_closes_the_workers_connection(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        first = asyncio.Event()
        reading = asyncio.create_task(
            record(gateway.url, CHAT, body(stream=True), first_piece=first)
        )
        await asyncio.wait_for(first.wait(), 60)
        reading.cancel()
        await asyncio.wait_for(worker.closed.wait(), 60)

        async def counted() -> bool:
            name = "penstock_gateway_outcomes_total"
            return bool(await gateway.metric(name, outcome="cancelled") == 1)

        await gateway.until(counted)
        assert await gateway.metric("penstock_gateway_in_flight") == 0


async def test_a_client_that_leaves_before_the_first_byte_does_too(gateway: Any) -> None:
    async with StubWorker("silent") as worker:
        await gateway.serve(worker)
        reading = asyncio.create_task(record(gateway.url, CHAT, body()))

        async def arrived() -> bool:
            return bool(worker.seen)

        await gateway.until(arrived)
        reading.cancel()
        await asyncio.wait_for(worker.closed.wait(), 60)


@pytest.mark.parametrize("failure", ["die", "garbage", "stopped"])
async def test_a_failure_before_the_first_byte_is_retried_elsewhere(
    gateway: Any, failure: str
) -> None:
    async with (
        StubWorker("json" if failure == "stopped" else failure) as bad,
        StubWorker() as good,
    ):
        await gateway.serve(bad, good)
        if failure == "stopped":
            bad.stop()
        for _ in range(6):
            assert (await ask(gateway)).body == OK
        assert await gateway.metric("penstock_gateway_outcomes_total", outcome="complete") == 6


async def test_when_every_worker_fails_the_error_is_502(gateway: Any) -> None:
    async with StubWorker("die") as one, StubWorker("garbage") as two:
        await gateway.serve(one, two)
        recording = await ask(gateway)
        assert recording.status == 502
        assert recording.json()["error"]["code"] == "upstream_failed"
        assert len(one.seen) + len(two.seen) == 2


async def test_a_stream_that_breaks_ends_with_an_error_and_uncleanly(gateway: Any) -> None:
    async with StubWorker("cut") as worker:
        await gateway.serve(worker)
        recording = await ask(gateway, stream=True)
        events = recording.events()
        assert events[:2] == [json.dumps({"n": n}, separators=(",", ":")) for n in range(2)]
        assert json.loads(events[2])["error"]["code"] == "upstream_failed"
        assert len(events) == 3
        assert not recording.clean_end
        assert await gateway.metric("penstock_gateway_outcomes_total", outcome="error") == 1


async def test_an_answer_that_breaks_is_asked_for_again_elsewhere(gateway: Any) -> None:
    async with StubWorker("short") as bad, StubWorker() as good:
        await gateway.serve(bad, good)
        while not bad.seen:  # equal workers are chosen among at random
            answers = await asyncio.gather(*(ask(gateway, n=n) for n in range(6)))
            assert {answer.body for answer in answers} == {OK}


async def test_an_answer_too_long_to_be_held_ends_uncleanly_when_it_breaks(gateway: Any) -> None:
    async with StubWorker("long_and_short") as worker:
        await gateway.serve(worker)
        recording = await ask(gateway)
        assert recording.status == 200
        assert not recording.clean_end


async def test_a_workers_refusal_is_the_clients(gateway: Any) -> None:
    async with StubWorker("refuse") as worker, StubWorker("refuse") as other:
        await gateway.serve(worker, other)
        recording = await ask(gateway)
        assert recording.status == 400
        assert recording.json()["error"]["code"] == "context_length_exceeded"
        assert len(worker.seen) + len(other.seen) == 1  # not a failure of the worker


async def test_draining_workers_get_nothing_new(gateway: Any) -> None:
    async with StubWorker() as leaving, StubWorker() as staying:
        await gateway.serve(leaving, staying, draining=(leaving,))
        for _ in range(5):
            assert (await ask(gateway)).body == OK
        assert (len(leaving.seen), len(staying.seen)) == (0, 5)


async def test_without_a_ready_worker_the_answer_is_503_and_says_when(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker, draining=(worker,))
        recording = await ask(gateway)
        assert recording.status == 503
        assert recording.json()["error"]["code"] == "no_capacity"
        assert int(recording.headers["retry-after"]) <= 5
        assert (await gateway.get("/readyz")).status_code == 503
        await gateway.serve(worker)
        assert (await gateway.get("/readyz")).status_code == 200


async def test_a_damaged_fleet_file_keeps_the_last_fleet(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        gateway.fleet_file.write_text("{ not json")

        async def complained() -> bool:
            gateway.log.seek(0)
            return "keeping the last fleet" in gateway.log.read()

        await gateway.until(complained)
        gateway.fleet_file.unlink()
        assert (await ask(gateway)).body == OK


async def test_equal_prefixes_go_to_the_same_worker(gateway: Any) -> None:
    async with StubWorker() as one, StubWorker() as two:
        await gateway.serve(one, two)
        for group in range(8):
            text = f"{group}" * 4000
            for turn in range(4):
                messages = [{"role": "user", "content": text}] + [
                    {"role": "user", "content": f"turn {n}"} for n in range(turn)
                ]
                await ask(gateway, messages=messages)
        for worker in (one, two):
            groups = [json.loads(seen.body)["messages"][0]["content"][0] for seen in worker.seen]
            assert all(groups.count(group) == 4 for group in set(groups))


async def test_a_client_that_does_not_read_holds_back_its_worker(gateway: Any) -> None:
    async with StubWorker("flood") as worker:
        await gateway.serve(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        data = json.dumps(body(stream=True)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )
        await reader.read(1)

        async def stalled() -> bool:
            before = worker.sent
            await asyncio.sleep(0.5)
            return worker.sent == before

        await gateway.until(stalled)
        assert worker.sent < 32 << 20  # socket buffers, not the gateway's memory
        writer.transport.abort()


async def test_sigterm_finishes_streams_and_exits_with_0(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        first = asyncio.Event()
        reading = asyncio.create_task(
            record(gateway.url, CHAT, body(stream=True), first_piece=first)
        )
        await asyncio.wait_for(first.wait(), 60)
        gateway.terminate()

        async def closed() -> bool:
            return not await gateway.listening()

        await gateway.until(closed)
        worker.release.set()
        recording = await reading
        assert recording.clean_end
        assert recording.body.endswith(EVENTS[-1])
        assert await asyncio.to_thread(gateway.process.wait, 60) == 0
