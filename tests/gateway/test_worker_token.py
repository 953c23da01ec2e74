"""The token by which workers know their gateway."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess
from stream_auditor import record
from stub_worker import OK, StubWorker

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetWorker
from penstock_contract.worker_token import ENVIRONMENT, WorkerTokens
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.leases import Handoff, Leases

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-many-characters"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def worker(anyio_backend: str) -> AsyncIterator[StubWorker]:
    async with StubWorker() as found:
        yield found


@pytest.fixture
async def gateway(
    tmp_path: Path, anyio_backend: str, worker: StubWorker
) -> AsyncIterator[GatewayProcess]:
    fleet = tmp_path / "fleet.json"
    behind = FleetWorker(id="w", url=worker.url, deployment="d", pool="p", role=Role.UNIFIED)
    models = (FleetModel(name="m", deployment="d"),)
    Fleet(generation=1, models=models, workers=(behind,)).write(fleet)
    tokens = {ENVIRONMENT: f"{TOKEN},an-older-one-of-them"}
    found = GatewayProcess(tmp_path, "--fleet", fleet, environment=tokens)
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def test_the_first_token_goes_to_workers_in_place_of_the_clients_key(
    gateway: Any, worker: StubWorker
) -> None:
    sent = {"authorization": "Bearer sk-of-the-client"}
    answer = await record(gateway.url, "/v1/chat/completions", BODY, headers=sent)
    assert answer.body == OK
    (seen,) = worker.seen
    assert seen.head.lower().count(b"authorization:") == 1
    assert f"authorization: Bearer {TOKEN}\r\n".encode() in seen.head
    assert TOKEN not in gateway.said()
    assert TOKEN.encode() not in answer.body


async def test_a_worker_that_knows_another_token_is_not_the_clients_fault(
    gateway: Any, worker: StubWorker
) -> None:
    worker.script = "stranger"
    answer = await record(gateway.url, "/v1/chat/completions", BODY)
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    assert "does not know this gateway's token" in gateway.said()


async def test_leases_are_given_back_with_the_token() -> None:
    heads: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        keeps = FleetWorker(
            id="w", url=f"http://127.0.0.1:{port}", deployment="d", pool="p", role=Role.PREFILL
        )
        params = b'{"remote_request_id": "r", "penstock_epoch": "e"}'
        Leases(ConnectionPool(), WorkerTokens((TOKEN,)).headers()).give_back(Handoff(keeps, params))
        head = await asyncio.wait_for(heads.get(), 60)
    assert f"authorization: Bearer {TOKEN}\r\n".encode() in head


def test_a_token_that_cannot_be_one_is_told_at_the_start(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("penstock-gateway")
    found = subprocess.run(
        [program, "--fleet", tmp_path / "fleet.json"],
        env={ENVIRONMENT: "short"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert ENVIRONMENT in found.stderr
    assert "short" not in found.stderr
