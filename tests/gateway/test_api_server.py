"""Watches of an API server that says nothing: old ones do, of a kind that never changes."""

import asyncio

import pytest
from kubernetes.client import Configuration

from penstock_gateway.fleet import api_server
from penstock_gateway.fleet.api_server import ApiServer, Collection

TENANTS = Collection("apis/penstock.dev/v1alpha1", "tenants")


@pytest.mark.anyio
async def test_a_silent_watch_ends_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "QUIET_SECONDS", 0.2)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.read()
        writer.close()

    opened: list[bool] = []
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        api = ApiServer(Configuration(host=f"http://127.0.0.1:{port}"))
        events = api.watch(TENANTS, "1", lambda: opened.append(True))
        assert [event async for event in events] == []
    assert opened == [True]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
