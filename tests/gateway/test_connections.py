"""What clients may do with a connection, and how one ends when the gateway does."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from stream_auditor import record
from stub_worker import OK, StubWorker

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


CHAT = "/v1/chat/completions"
CHATTING = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(CHATTING).encode()


def request(*lines: str, version: str = "1.1", path: str = CHAT) -> bytes:
    rows = [f"POST {path} HTTP/{version}", "host: x", "content-type: application/json", *lines]
    return "\r\n".join([*rows, "", ""]).encode()


LENGTH = f"content-length: {len(BODY)}"


async def test_the_body_may_wait_for_the_gateway_to_ask_for_it(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request(LENGTH, "expect: 100-continue", "connection: close"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read()).endswith(OK)
        writer.close()


@pytest.mark.parametrize("extra", [(), ("expect: 100-continue",)])
async def test_a_body_that_is_too_large_is_refused_unread(
    gateway: Any, extra: tuple[str, ...]
) -> None:
    answer = await gateway.raw(request("content-length: 9999999999", *extra), quiet=1)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"request_too_large"' in answer
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("host", ["x/sleep?", "x/sleep#", "x@y", "x/../pause"])
async def test_a_forged_host_never_changes_what_a_worker_is_asked(gateway: Any, host: str) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        data = request(LENGTH, "connection: close").replace(b"host: x", b"host: " + host.encode())
        await gateway.raw(data + BODY, quiet=1)
        for seen in worker.seen:
            assert seen.head.startswith(f"POST {CHAT} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/completions", CHAT])
async def test_each_relayed_path_reaches_the_worker_as_it_is(gateway: Any, path: str) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await gateway.raw(request(LENGTH, "connection: close", path=path) + BODY)
        assert answer.endswith(OK)
        assert worker.seen[0].head.startswith(f"POST {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("given", ["a b", "x" * 129, "ü", "{}"])
async def test_a_request_id_that_could_do_harm_is_replaced(gateway: Any, given: str) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        lines = (LENGTH, f"x-request-id: {given}", "connection: close")
        answer = await gateway.raw(request(*lines) + BODY)
        (own,) = [line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: ")]
        assert own != f"x-request-id: {given}".encode()
        assert own + b"\r\n" in worker.seen[0].head


async def test_a_stream_still_running_at_the_signal_outlives_new_connections(own: Any) -> None:
    async with StubWorker("paused") as worker:
        await own.serve(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", own.port)
        writer.write(request(LENGTH) + BODY)
        await reader.readuntil(b"\r\n\r\n")
        own.terminate()

        async def refused() -> bool:
            return not await own.listening()

        await own.until(refused)
        worker.release.set()
        # Kept alive before the signal, the connection still ends after its answer.
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"0\r\n\r\n")
        writer.close()


async def test_idle_connections_do_not_hold_up_the_end(own: Any) -> None:
    async with StubWorker() as worker:
        await own.serve(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", own.port)
        writer.write(request(LENGTH) + BODY)
        await reader.readuntil(OK)
        own.terminate()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert await asyncio.to_thread(own.process.wait, 60) == 0
        writer.close()


@pytest.fixture
async def hurried(tmp_path: Path, gateway: Any) -> AsyncIterator[Any]:
    """A gateway that gives its streams one second at the end."""
    folder = tmp_path / "hurried"
    folder.mkdir()
    found = type(gateway)(folder, "--drain-timeout", "1s")
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def test_a_stream_that_is_not_done_in_time_is_told_so(hurried: Any) -> None:
    async with StubWorker("paused") as worker:
        await hurried.serve(worker)
        first = asyncio.Event()
        asking = asyncio.create_task(
            record(hurried.url, CHAT, CHATTING | {"stream": True}, first_piece=first)
        )
        await asyncio.wait_for(first.wait(), 60)
        hurried.terminate()
        recording = await asyncio.wait_for(asking, 60)
        assert not recording.clean_end
        await asyncio.wait_for(worker.closed.wait(), 60)
        assert "error" in json.loads(recording.events()[-1])


async def test_the_event_loop_is_uvloop(gateway: Any) -> None:
    maps = await asyncio.to_thread(Path(f"/proc/{gateway.process.pid}/maps").read_text)
    assert "/uvloop/" in maps


async def test_refusals_carry_the_request_id(gateway: Any) -> None:
    recording = await record(gateway.url, CHAT, {"model": "x"}, headers={"x-request-id": "mine"})
    assert recording.status == 404
    assert recording.headers.get("x-request-id") == "mine"


async def test_a_path_with_a_slash_too_many_is_not_on_the_list(gateway: Any) -> None:
    answer = await gateway.raw(request(LENGTH, "connection: close", path=CHAT + "/") + BODY)
    assert answer.startswith(b"HTTP/1.1 404 ")


async def test_a_request_head_without_end_is_cut_off(gateway: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("x: " + "y" * (8 << 20))[:-4])  # the head goes on
    try:
        answer = await asyncio.wait_for(reader.read(), 20)
    except TimeoutError:
        answer = b"it waits for more"
    except ConnectionError:
        answer = b""
    writer.transport.abort()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_a_client_of_http_1_0_is_sent_no_chunks(gateway: Any) -> None:
    async with StubWorker("stream") as worker:
        await gateway.serve(worker)
        answer = await gateway.raw(request(LENGTH, version="1.0") + BODY)
        assert answer.startswith(b"HTTP/1.")
        assert b"transfer-encoding" not in answer.lower()
