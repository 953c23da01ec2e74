"""Clients that take for ever: they are let go, and nobody else feels them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stub_worker import EVENTS, OK, StubWorker

pytestmark = pytest.mark.anyio

BODY = b'{"model":"m"}'
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)
MOST = 40


@pytest.fixture
async def strict(gateway: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A gateway with little patience and room for few."""
    folder = tmp_path / "strict"
    folder.mkdir()
    flags = ("--client-timeout", "1s", "--max-connections", str(MOST))
    found = type(gateway)(folder, *flags)
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def connect(gateway: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


async def drip(gateway: Any, data: bytes) -> bytes:
    """Send a byte every tenth of a second, until the gateway has enough of it."""
    reader, writer = await connect(gateway)
    answer = asyncio.create_task(reader.read())
    try:
        for byte in data:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return await asyncio.wait_for(answer, 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def healthy(gateway: Any) -> bool:
    reader, writer = await connect(gateway)
    writer.write(HEAD % len(BODY) + BODY)
    try:
        return OK in await asyncio.wait_for(reader.readuntil(OK), 60)
    finally:
        writer.close()


async def test_a_head_that_comes_in_drops_is_not_waited_for(strict: Any) -> None:
    async with StubWorker() as worker:
        await strict.serve(worker)
        answer = await drip(strict, HEAD * 20)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"request_timeout"' in answer
        assert not worker.seen
        assert await healthy(strict)


async def test_a_connection_that_says_nothing_is_closed(strict: Any) -> None:
    reader, writer = await connect(strict)
    assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_blank_lines_after_an_answer_do_not_keep_a_connection(strict: Any) -> None:
    async with StubWorker() as worker:
        await strict.serve(worker)
        reader, writer = await connect(strict)
        writer.write(HEAD % len(BODY) + BODY)
        await reader.readuntil(OK)
        writer.write(b"\r\n")
        await asyncio.wait_for(reader.read(), 60)
        writer.close()


@pytest.mark.parametrize("path", [b"/v1/completions", b"/v1/models"])
async def test_a_body_that_comes_in_drops_is_not_waited_for(strict: Any, path: bytes) -> None:
    async with StubWorker() as worker:
        await strict.serve(worker)
        reader, writer = await connect(strict)
        writer.write((HEAD % 1000).replace(b"/v1/completions", path))
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.1)
        assert (await answer).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 405 "))
        writer.close()
        assert not worker.seen
        assert await healthy(strict)


async def test_a_slow_line_is_waited_for_as_long_as_it_moves(strict: Any) -> None:
    body = b'{"model":"m","prompt":"' + b"x" * 20_000 + b'"}'
    async with StubWorker() as worker:
        await strict.serve(worker)
        reader, writer = await connect(strict)
        writer.write(HEAD % len(body))
        for start in range(0, len(body), 2000):
            writer.write(body[start : start + 2000])
            await asyncio.sleep(0.3)
        await asyncio.wait_for(reader.readuntil(OK), 60)
        writer.close()


async def test_a_client_that_does_not_read_is_let_go_and_so_is_its_worker(strict: Any) -> None:
    async with StubWorker("flood") as worker:
        await strict.serve(worker)
        _, writer = await connect(strict)
        writer.write(HEAD % len(BODY) + BODY)

        async def let_go() -> bool:
            return bool(await strict.metric("penstock_gateway_outcomes_total") == 1)

        await strict.until(let_go)
        writer.close()


async def test_waiting_for_a_worker_is_not_the_clients_slowness(strict: Any) -> None:
    async with StubWorker("paused") as worker:
        await strict.serve(worker)
        reader, writer = await connect(strict)
        writer.write(HEAD % len(BODY) + BODY)
        await reader.readuntil(EVENTS[0])
        await asyncio.sleep(3)  # three times the patience
        worker.release.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60)
        writer.close()


async def test_more_connections_than_allowed_are_sent_away_with_a_word(gateway: Any) -> None:
    folder = gateway.fleet_file.parent / "small"
    folder.mkdir()
    small = type(gateway)(folder, "--max-connections", str(MOST))
    try:
        await small.start()
        held = [await connect(small) for _ in range(MOST)]
        reader, writer = await connect(small)
        answer = await asyncio.wait_for(reader.read(), 60)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        for _, other in (*held, (reader, writer)):
            other.close()
        await small.until(small.listening)
    finally:
        small.stop()


async def test_stuck_clients_cost_little_memory(gateway: Any) -> None:
    def resident() -> int:
        lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    async with StubWorker() as worker:
        await gateway.serve(worker)
        before = resident()
        held = [await connect(gateway) for _ in range(300)]
        for number, (_, writer) in enumerate(held):
            writer.write((HEAD % 90_000)[: 40 if number % 2 else None])
        assert await healthy(gateway)
        grown = resident() - before
        for _, writer in held:
            writer.close()
        assert grown < 300 * 50, f"{grown} KiB for 300 clients"
