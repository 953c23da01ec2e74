"""How the picker is run: TLS, tokens, health, subsets, gateways that buffer, and its end."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import plain_http
import pytest
from picker_client import CHAT, body, post
from picker_process import PickerProcess
from stub_worker import EVENTS, OK, StubWorker

from penstock_contract.api import Role
from penstock_contract.fleet import FleetCanary
from penstock_contract.worker_token import ENVIRONMENT

pytestmark = pytest.mark.anyio
TOKEN = "0123456789abcdef"


@asynccontextmanager
async def started(folder: Path, *flags: str, **options: Any) -> AsyncIterator[PickerProcess]:
    found = PickerProcess(folder, *flags, **options)
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def known(picker: PickerProcess, *workers: StubWorker, **options: Any) -> None:
    picker.write(*((f"w{worker.port}", worker.url) for worker in workers), **options)
    await picker.followed()


async def test_it_speaks_tls_and_shows_workers_its_token(
    tmp_path: Path, envoys: Callable[..., Any]
) -> None:
    secret = {ENVIRONMENT: TOKEN}
    async with (
        started(tmp_path, "--secure-serving", environment=secret) as picker,
        StubWorker() as worker,
    ):
        await known(picker, worker)
        answer = await post(envoys(picker, tls=True).url, headers={"authorization": "Bearer mine"})
        assert answer.content == OK
        head = worker.seen[0].head.lower()
        assert f"authorization: bearer {TOKEN}\r\n".encode() in head
        assert head.count(b"authorization") == 1


async def test_a_certificate_that_is_replaced_is_used_from_then_on(tmp_path: Path) -> None:
    from penstock_gateway.endpoint_picker.certificates import _self_signed

    def write() -> None:
        for name, data in zip(("tls.key", "tls.crt"), _self_signed(), strict=True):
            (tmp_path / name).write_bytes(data)

    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    write()
    flags = ("--secure-serving", "--cert-path", str(tmp_path))
    async with started(tmp_path, *flags) as picker:
        first = await asyncio.to_thread(shown, picker.grpc_port)
        assert first.strip() == (tmp_path / "tls.crt").read_text().strip()
        write()
        second = await asyncio.to_thread(shown, picker.grpc_port)
        assert second.strip() == (tmp_path / "tls.crt").read_text().strip() != first.strip()


async def test_its_health_is_told_as_the_protocol_names_it(tmp_path: Path) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    names = ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor")

    async def states(port: int) -> list[int]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            asked = [health_pb2.HealthCheckRequest(service=name) for name in names]
            return [(await stub.Check(one)).status for one in asked]

    picker = PickerProcess(tmp_path)
    picker.fleet_file.write_text("not a fleet yet")
    try:
        picker.spawn()

        async def answers() -> bool:
            return "telling on" in picker.said()

        await picker.until(answers)
        assert await states(picker.grpc_port) == [2, 1, 2, 2]
        assert (await picker.get("/health")).status_code == 503
        picker.write()
        await picker.followed()
        assert await states(picker.grpc_port) == [1, 1, 1, 1]
        assert (await picker.get("/health")).status_code == 200
    finally:
        picker.stop()


async def test_a_gateway_may_say_among_whom_to_choose(
    picker: PickerProcess, envoys: Callable[..., Any]
) -> None:
    async with StubWorker() as one, StubWorker() as other:
        await known(picker, one, other)
        envoy = envoys(picker, subset=[f"127.0.0.1:{other.port}", "10.0.0.1:80"])
        for number in range(4):
            assert (await post(envoy.url, body(str(number)))).status_code == 200
        assert (len(one.seen), len(other.seen)) == (0, 4)
        nobody = envoys(picker, subset=[])
        assert (await post(nobody.url)).status_code == 503


async def test_a_gateway_may_buffer_bodies(
    picker: PickerProcess, envoys: Callable[..., Any]
) -> None:
    envoy = envoys(picker, body_mode="BUFFERED")
    async with StubWorker() as worker:
        await known(picker, worker)
        assert (await post(envoy.url, body("x" * 200_000))).content == OK
        assert (await post(envoy.url, {"model": "nobody"})).status_code == 404
        assert (await picker.workers()).workers[f"w{worker.port}"].requests == 1


async def test_a_gateway_that_hands_over_no_bodies_is_told_what_to_change(
    picker: PickerProcess, envoys: Callable[..., Any]
) -> None:
    answer = await post(envoys(picker, body_mode="NONE").url)
    assert answer.status_code == 500
    assert "FULL_DUPLEX_STREAMED" in answer.json()["error"]["message"]


async def test_whole_requests_go_to_no_prefill_worker_and_a_canary_gets_its_share(
    front: Any,
) -> None:
    async with StubWorker() as one, StubWorker() as other:
        names = [f"w{worker.port}" for worker in (one, other)]
        await front.serve(one, other, roles={names[0]: Role.PREFILL, names[1]: Role.DECODE})
        for number in range(4):
            await post(front.url, body(str(number)))
        assert (len(one.seen), len(other.seen)) == (0, 4)
        canary = FleetCanary(revision="new", weight=100)
        await front.serve(one, other, revisions={names[0]: "new"}, canary=canary)
        for number in range(4):
            await post(front.url, body(str(number)))
        assert (len(one.seen), len(other.seen)) == (4, 4)


async def test_it_serves_the_deployment_of_its_pool_only(
    tmp_path: Path, envoys: Callable[..., Any]
) -> None:
    async with started(tmp_path, "--deployment", "team/other") as picker, StubWorker() as worker:
        await known(picker, worker)
        envoy = envoys(picker)
        answer = await post(envoy.url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        async with plain_http.client(envoy.url) as client:
            assert (await client.get("/v1/models")).json()["data"] == []


async def test_told_to_stop_it_lets_answers_end(tmp_path: Path, envoys: Callable[..., Any]) -> None:
    async with started(tmp_path) as picker, StubWorker("paused") as worker:
        await known(picker, worker)
        envoy = envoys(picker)
        async with (
            plain_http.client(envoy.url) as client,
            client.stream("POST", CHAT, json=body(stream=True)) as answer,
        ):
            pieces = answer.aiter_raw()
            assert await anext(pieces) == EVENTS[0]
            picker.terminate()
            await picker.until(picker.listens_no_more)
            assert (await post(envoy.url)).status_code >= 500
            worker.release.set()
            assert b"".join([piece async for piece in pieces]) == EVENTS[-1]
        assert await asyncio.to_thread(picker.wait, 60) == 0


async def test_told_twice_it_leaves_at_once(tmp_path: Path, envoys: Callable[..., Any]) -> None:
    flags = ("--drain-timeout", "1000s")
    async with started(tmp_path, *flags) as picker, StubWorker("paused") as worker:
        await known(picker, worker)
        async with (
            plain_http.client(envoys(picker).url) as client,
            client.stream("POST", CHAT, json=body(stream=True)) as answer,
        ):
            assert await anext(answer.aiter_raw()) == EVENTS[0]
            picker.terminate()
            await picker.until(picker.listens_no_more)
            picker.terminate()
            assert await asyncio.to_thread(picker.wait, 60) == 0
