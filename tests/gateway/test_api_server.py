"""What is read of a kubeconfig, and of an API server that says nothing."""

import asyncio
from pathlib import Path

import pytest
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, kube_config

from penstock_gateway.fleet import api_server
from penstock_gateway.fleet.api_server import ApiServer, Collection, configuration

TENANTS = Collection("apis/penstock.dev/v1alpha1", "tenants")


@pytest.mark.parametrize(
    "text", ["words", "a: [", "clusters: 1\ncontexts: []\n", "- a\n", "\x00"], ids=repr
)
def test_a_file_that_is_no_kubeconfig_is_called_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    # `kubernetes` has read the variable when it was imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    with pytest.raises(ConfigException, match=f"{path} is no kubeconfig"):
        configuration()


@pytest.mark.anyio
async def test_a_silent_watch_ends_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # Old servers say nothing of a kind that never changes.
    monkeypatch.setattr(api_server, "QUIET_SECONDS", 2.0)

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
