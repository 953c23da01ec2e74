"""Workers that fall silent, crawl, kill themselves over a request, or answer garbage."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from stream_auditor import Recording, record
from stub_worker import EVENTS, OK, StubWorker

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


async def ask(gateway: Any, text: str = "hi", **options: Any) -> Recording:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **options}
    return await record(gateway.url, CHAT, body)


class Deaf(StubWorker):
    """Accepts everything and answers nothing, not even questions about its health."""

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self.script != "deaf":
            return await super()._request(reader, writer)
        await reader.read(1 << 16)
        await reader.read(1 << 16)
        self.closed.set()
        return False


async def until(gateway: Any, condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await gateway.until(holds)


async def test_a_deaf_worker_is_given_up_within_seconds(gateway: Any) -> None:
    async with Deaf("deaf") as bad, StubWorker() as good:
        await gateway.serve(bad)
        waiting = asyncio.create_task(ask(gateway))
        await gateway.serve(bad, good)
        async with asyncio.timeout(60):
            assert (await waiting).body == OK
            await bad.closed.wait()
        assert await gateway.metric("penstock_gateway_worker_faults_total", cause="hung") == 1


async def test_a_silent_stream_of_a_deaf_worker_ends_with_an_error(gateway: Any) -> None:
    async with Deaf("paused") as worker:
        await gateway.serve(worker)
        first = asyncio.Event()
        body = {"model": "m", "stream": True, "prompt": "hi"}
        reading = asyncio.create_task(record(gateway.url, CHAT, body, first_piece=first))
        await asyncio.wait_for(first.wait(), 60)
        worker.script = "deaf"
        recording = await asyncio.wait_for(reading, 60)
        assert b"upstream_failed" in recording.body
        assert not recording.clean_end


async def test_a_worker_that_says_it_is_well_may_take_its_time(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        reading = asyncio.create_task(ask(gateway, stream=True))
        # Asked twice and more, it was silent for far longer than is suspicious.
        await until(gateway, lambda: worker.health_checks >= 2)
        worker.release.set()
        recording = await reading
        assert recording.body == EVENTS[0] + EVENTS[-1]
        assert recording.clean_end


async def test_a_worker_that_says_it_is_well_is_not_believed_for_ever(gateway: Any) -> None:
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        recording = await asyncio.wait_for(ask(gateway, stream=True), 60)
        assert b"upstream_failed" in recording.body
        assert worker.health_checks >= 2


async def test_a_slow_client_does_not_make_its_worker_look_hung(gateway: Any) -> None:
    async with StubWorker("flood") as worker:
        worker.healthy = False
        await gateway.serve(worker)
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        data = b'{"model":"m","stream":true}'
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )
        await asyncio.sleep(3)  # nothing happens in this time: that is what is tested
        assert await gateway.metric("penstock_gateway_worker_faults_total") == 0
        assert await gateway.metric("penstock_gateway_in_flight") == 1
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_kills_its_workers_costs_two_and_is_kept_away(
    gateway: Any, stream: bool
) -> None:
    async with StubWorker("die") as one, StubWorker("die") as two, StubWorker("die") as three:
        workers = (one, two, three)
        for worker in workers:
            worker.healthy = False
        await gateway.serve(*workers)
        assert (await ask(gateway, stream=stream)).status == 502
        killed = [worker for worker in workers if worker.seen]
        assert len(killed) == 2
        again = await ask(gateway, stream=stream)
        assert again.status == 400
        assert again.json()["error"]["code"] == "request_quarantined"
        assert [worker for worker in workers if worker.seen] == killed
        # Others are served.
        (alive,) = set(workers) - set(killed)
        alive.script = "stream" if stream else "json"
        assert (await ask(gateway, "another one", stream=stream)).status == 200


@pytest.mark.parametrize(
    ("script", "stream"),
    [("garbage", False), ("html", False), ("html", True), ("noise", True), ("mute", True)],
)
async def test_garbage_never_reaches_a_client(gateway: Any, script: str, stream: bool) -> None:
    good_script = "stream" if stream else "json"
    async with StubWorker(script) as bad, StubWorker(good_script) as good:
        await gateway.serve(bad, good)
        while not bad.seen:  # equal workers are chosen among at random
            answers = await asyncio.gather(*(ask(gateway, f"{n}", stream=stream) for n in range(6)))
            assert {answer.body for answer in answers} == {b"".join(EVENTS) if stream else OK}


async def test_in_an_outage_retries_stay_inside_their_budget(gateway: Any) -> None:
    async with StubWorker("busy") as one, StubWorker("busy") as two:
        await gateway.serve(one, two)
        for _ in range(20):
            await asyncio.gather(*(ask(gateway) for _ in range(20)))
        # 400 requests: their own attempts, the savings of 100, and a fifth of them.
        assert len(one.seen) + len(two.seen) <= 400 + 100 + 80
        assert await gateway.metric("penstock_gateway_retries_denied_total") >= 400 - 100 - 80


async def test_a_worker_that_answers_with_errors_only_is_put_aside(gateway: Any) -> None:
    async with StubWorker("failing") as bad, StubWorker() as good:
        bad.healthy = False
        await gateway.serve(bad, good)

        async def found_out() -> bool:
            answers = await asyncio.gather(*(ask(gateway) for _ in range(12)))
            assert {answer.body for answer in answers} == {OK}
            return bad.health_checks > 0

        await gateway.until(found_out)
        seen = len(bad.seen)
        await ask(gateway)
        assert len(bad.seen) == seen


async def test_a_worker_that_crawls_is_put_aside(gateway: Any) -> None:
    async with StubWorker("crawl") as slow, StubWorker("trot") as one, StubWorker("trot") as two:
        await gateway.serve(slow, one, two)

        async def ejected() -> bool:
            await asyncio.gather(*(ask(gateway, stream=True) for _ in range(9)))
            return bool(await gateway.metric("penstock_gateway_ejections_total") == 1)

        await gateway.until(ejected, 60)
        before = len(slow.seen)
        await asyncio.gather(*(ask(gateway, stream=True) for _ in range(9)))
        assert len(slow.seen) == before
