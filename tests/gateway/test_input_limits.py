"""Bodies that are too much, each refused by name; whoever sends one harms nobody else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from stub_worker import OK, StubWorker

from penstock_contract.errors import ApiError
from penstock_gateway.protocol import MAX_HEAD
from penstock_gateway.relay.bounds import MAX_VALUES, check_values

pytestmark = pytest.mark.anyio

GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def nested(depth: int, field: str) -> bytes:
    inner = b"[" * depth + b"]" * depth
    return b'{"model":"m","%b":%b}' % (field.encode(), inner)


def many(value: bytes, count: int) -> bytes:
    return b'{"model":"m","x":[' + b",".join([value] * count) + b"]}"


async def post(gateway: Any, body: bytes, **headers: str) -> httpx.Response:
    kind = {"content-type": "application/json", **headers}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        return await client.post("/v1/chat/completions", content=body, headers=kind)


TOO_MUCH = {
    "bytes": (b'{"model":"m","x":"' + b"x" * 100_000 + b'"}', 413),
    "depth that is parsed": (nested(1000, "messages"), 400),
    "depth that is not": (nested(5000, "messages"), 400),
    "depth of what nobody reads": (nested(5000, "other"), 400),
    "depth of objects": (b'{"model":"m","messages":' + b'{"a":' * 900 + b"1" + b"}" * 901, 400),
    "a number": (b'{"model":"m","n":' + b"9" * 5000 + b"}", 400),
    "half a character": (b'{"model":"\xff"}', 400),
    "half a surrogate": (b'{"model":"m","prompt":"\\ud800"}', 400),
    "nothing": (b"", 400),
    "two objects": (b'{"model":"m"}{"model":"m"}', 400),
    "not a number": (b'{"model":"m","temperature":NaN}', 400),
    "a comment": (b'{"model":"m"}//', 400),
    "nul": (b'{"model":"m\0"}', 400),
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_what_is_too_much_is_refused_and_harms_nobody(gateway: Any, name: str) -> None:
    body, status = TOO_MUCH[name]
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await post(gateway, body)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert not worker.seen
        assert (await post(gateway, json.dumps(GOOD).encode())).content == OK


async def test_heads_are_bounded(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        lines = b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(MAX_HEAD // 1000 + 1))
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n" + lines
        assert (await gateway.raw(head)).startswith(b"HTTP/1.1 431 ")
        assert not worker.seen


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1"])
def test_values_are_bounded_whatever_they_are(value: bytes) -> None:
    check_values(many(value, MAX_VALUES // 2 - 10))
    with pytest.raises(ApiError):
        check_values(many(value, MAX_VALUES + 1))


def test_separators_inside_of_text_are_no_values() -> None:
    text = b'a,[{\\"' * 600_000
    check_values(b'{"model":"m","prompt":"' + text + b'"}')


async def test_a_body_that_would_unfold_to_a_gigabyte_costs_no_memory(
    gateway: Any, tmp_path: Path
) -> None:
    def peak() -> int:
        lines = Path(f"/proc/{large.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

    folder = tmp_path / "large"
    folder.mkdir()
    large = type(gateway)(folder)
    try:
        await large.start()
        async with StubWorker() as worker:
            await large.serve(worker)
            before = peak()
            hostile = asyncio.create_task(post(large, many(b"[]", 10_000_000)))
            while not hostile.done():
                assert (await post(large, json.dumps(GOOD).encode())).content == OK
            assert (await hostile).status_code == 413
            assert peak() - before < 200, "MiB"
    finally:
        large.stop()
