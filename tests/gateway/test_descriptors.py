"""A gateway that runs out of file descriptors: nobody is blamed for it, and it recovers."""

import asyncio
import json
import os
import resource
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stub_worker import EVENTS, OK, StubWorker

from penstock_gateway.descriptors import DEFAULT, EACH, RESERVED, most_connections

pytestmark = pytest.mark.anyio

ROOM = 20
FEW = RESERVED + EACH * ROOM
"""File descriptors for twenty clients."""
LIMITED = ("sh", "-c", 'ulimit -n "$0" && exec "$@"', str(FEW))
CROWD = 60
MOST_CROWDS = 10
"""One is mostly enough; a slow one goes through a gateway that is faster, each before the next."""

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(**options: Any) -> bytes:
    body = json.dumps({"model": "m", **options}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def descriptors(gateway: Any) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{gateway.process.pid}/fd")}


def allow_more(gateway: Any, count: int) -> None:
    """Let the gateway open about so many descriptors more."""
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    most = hard if count < 0 else max(descriptors(gateway)) + 1 + count
    resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (most, hard))


async def connect(gateway: Any) -> Client:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


async def was_read(worker: StubWorker) -> bool:
    """Return whether the gateway has nothing more to ask a worker by itself."""
    return worker.scrapes > 0


async def take_all(gateway: Any) -> list[Client]:
    """Leave the gateway a few descriptors more, and take these."""
    allow_more(gateway, 4)
    most, _ = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    held: list[Client] = []

    async def full() -> bool:
        held.append(await connect(gateway))
        return len(descriptors(gateway)) == most

    await gateway.until(full)
    return held


async def answer(client: Client) -> bytes:
    """Return what a client gets until its connection ends; nothing when it is cut off."""
    try:
        return await asyncio.wait_for(client[0].read(), 60)
    except ConnectionError:
        return b""
    finally:
        client[1].close()


async def ask(gateway: Any) -> bytes:
    client = await connect(gateway)
    client[1].write(request())
    try:
        return await asyncio.wait_for(client[0].readuntil(OK), 60)
    finally:
        client[1].close()


async def no_worker_is_blamed(gateway: Any) -> bool:
    found = (await gateway.workers()).workers.values()
    faults = await gateway.metric("penstock_gateway_worker_faults_total")
    return faults == 0 and not any(worker.failures for worker in found)


@pytest.fixture
async def limited(gateway: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A gateway that may open few descriptors, whatever it asks for."""
    folder = tmp_path / "limited"
    folder.mkdir()
    found = type(gateway)(folder)
    found.starter = LIMITED
    try:
        await found.start()
        yield found
    finally:
        found.stop()


def test_without_a_wish_there_are_as_many_connections_as_fit() -> None:
    assert most_connections(None, 1 << 20) == DEFAULT
    assert most_connections(None, FEW) == ROOM


@pytest.mark.parametrize(("wanted", "limit"), [(ROOM + 1, FEW), (0, FEW), (None, RESERVED)])
def test_connections_that_do_not_fit_are_named(wanted: int | None, limit: int) -> None:
    with pytest.raises(ValueError, match=f"RLIMIT_NOFILE of {limit}"):
        most_connections(wanted, limit)


async def test_a_gateway_that_cannot_hold_what_it_promises_does_not_start(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("penstock-gateway")
    flags = ("--fleet", tmp_path / "fleet.json", "--max-connections", "1000")
    process = await asyncio.create_subprocess_exec(
        *LIMITED, program, *flags, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert f"--max-connections: 1000 connections: RLIMIT_NOFILE of {FEW}".encode() in said


async def test_the_soft_limit_is_raised_to_the_hard_one(limited: Any) -> None:
    assert resource.prlimit(limited.process.pid, resource.RLIMIT_NOFILE) == (FEW, FEW)


async def test_a_crowd_is_refused_or_served_but_never_starves_the_workers(limited: Any) -> None:
    async with StubWorker() as one, StubWorker() as other:
        await limited.serve(one, other)
        crowd = [await connect(limited) for _ in range(CROWD)]
        for _, writer in crowd:
            writer.write(request().replace(b"host: x", b"host: x\r\nconnection: close"))
        answers = await asyncio.gather(*map(answer, crowd))
        served = [found for found in answers if found.endswith(OK)]
        refused = [found for found in answers if b"no_capacity" in found]
        assert ROOM // 2 <= len(served) <= len(one.seen) + len(other.seen)
        assert len(served) + len(refused) + answers.count(b"") == CROWD
        assert await no_worker_is_blamed(limited)
        assert OK in await ask(limited)


async def test_requests_wait_for_a_descriptor_and_blame_nobody(gateway: Any) -> None:
    async with StubWorker() as one, StubWorker() as other:
        await gateway.serve(one, other)
        assert OK in await ask(gateway)
        crowds = 0
        while not await gateway.metric("penstock_gateway_starved_total"):
            crowds += 1
            assert crowds <= MOST_CROWDS
            allow_more(gateway, 8)
            crowd = [await connect(gateway) for _ in range(CROWD)]
            for _, writer in crowd:
                writer.write(request().replace(b"host: x", b"host: x\r\nconnection: close"))
            answers = await asyncio.gather(*map(answer, crowd))
            allow_more(gateway, -1)
            told = [found for found in answers if found and not found.endswith(OK)]
            assert all(b"503" in found and b"retry-after: 1\r\n" in found for found in told)
        assert 1 <= gateway.said().count("EMFILE") <= crowds
        assert await no_worker_is_blamed(gateway)
        assert OK in await ask(gateway)


async def test_a_request_goes_on_as_soon_as_a_descriptor_is_free(gateway: Any) -> None:
    async with StubWorker(metrics="nothing 1\n") as worker:
        await gateway.serve(worker)
        await gateway.until(partial(was_read, worker))
        asking = await connect(gateway)
        await gateway.until(gateway.listening)  # after which it has let that one in, too
        held = await take_all(gateway)
        asking[1].write(request())

        async def starved() -> bool:
            return "EMFILE" in gateway.said()

        await gateway.until(starved)
        for _, writer in held:
            writer.close()
        assert OK in await asyncio.wait_for(asking[0].readuntil(OK), 60)
        asking[1].close()
        allow_more(gateway, -1)
        assert await gateway.metric("penstock_gateway_starved_total") == 1
        assert await no_worker_is_blamed(gateway)


async def test_a_silent_worker_that_cannot_be_asked_keeps_its_streams(gateway: Any) -> None:
    async with StubWorker("paused", metrics="nothing 1\n") as worker:
        await gateway.serve(worker)
        await gateway.until(partial(was_read, worker))
        reader, writer = await connect(gateway)
        writer.write(request(stream=True))
        await reader.readuntil(EVENTS[0])
        held = await take_all(gateway)

        async def cannot_ask() -> bool:
            return "EMFILE" in gateway.said()

        await gateway.until(cannot_ask)
        worker.release.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
        writer.close()
        for _, other in held:
            other.close()
        allow_more(gateway, -1)
        assert await no_worker_is_blamed(gateway)
