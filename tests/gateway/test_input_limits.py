"""Bodies that are too much, each refused by name; whoever sends one harms nobody else."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_worker import OK, StubWorker

from penstock_contract.errors import ApiError
from penstock_gateway.protocol import MAX_HEAD
from penstock_gateway.relay.bounds import MAX_VALUES, check_values, separators
from penstock_gateway.relay.request import parse_json

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def nested(depth: int, field: str) -> bytes:
    inner = b"[" * depth + b"]" * depth
    return b'{"model":"m","%b":%b}' % (field.encode(), inner)


def many(value: bytes, count: int) -> bytes:
    return b'{"model":"m","x":[' + b",".join([value] * count) + b"]}"


async def post(gateway: Any, body: bytes, **headers: str) -> httpx.Response:
    kind = {"content-type": "application/json", **headers}
    async with plain_http.client(gateway.url) as client:
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


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 1_000_000, b'"\\' * 1_000_000, b'"\\\n' * 500_000, b'"a' * 1_000_000]
)
def test_text_that_never_ends_is_looked_at_once(text: bytes) -> None:
    """It took hours: from each quote to the end, and none there."""
    with pytest.raises(ApiError):
        check_values(b"," * (MAX_VALUES + 1) + text)


@given(st.text(alphabet='"\\,[{a\n', max_size=40))
def test_values_are_counted_as_a_parser_would(text: str) -> None:
    found = json.dumps({"x": [text, {"y": [1, text]}]}).encode()
    assert separators(found) == 6  # two objects, two lists, two commas


FIELDS = (
    "model", "stream", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "echo",
    "service_tier", "input", "query", "documents", "text_1", "text_2", "penstock_resume",
)  # fmt: skip
numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["text", "role"]), inner)
    ),
    max_leaves=8,
)
bodies = st.lists(st.tuples(st.sampled_from(FIELDS), values), max_size=8)


@given(bodies)
def test_whatever_a_body_has_is_understood_or_refused(fields: list[tuple[str, Any]]) -> None:
    rows = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields]
    try:
        found = parse_json(("{" + ",".join(rows) + "}").encode())
    except ApiError:
        return
    last = dict(fields)  # of a name that comes twice, the last one counts, as with workers
    assert found.model == last["model"]
    assert found.stream is (last.get("stream") is True), "what only looks like true is not"
    assert found.size >= 0
    assert found.most_tokens >= 0
    assert found.reserved == [name for name in ("penstock_resume",) if name in last]


async def test_who_leaves_between_head_and_body_leaves_nothing(gateway: Any) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for rest in (
        b"content-length: 1000\r\n\r\n",
        b"content-length: 1000\r\n\r\n" + b'{"model":"m",',
        b"transfer-encoding: chunked\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nff\r\n" + b'{"model":"m",',
        b"expect: 100-continue\r\ncontent-length: 1000\r\n\r\n",
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + rest)
        await writer.drain()
        writer.close()

    async def nothing_is_held() -> bool:
        return bool(await gateway.metric("penstock_gateway_request_body_bytes") == 0)

    async with StubWorker() as worker:
        await gateway.serve(worker)
        await gateway.until(nothing_is_held)
        assert (await post(gateway, json.dumps(GOOD).encode())).content == OK
        assert len(worker.seen) == 1


async def test_trailers_are_bounded_and_nobodys(gateway: Any) -> None:
    chunked = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b'd\r\n{"model":"m"}\r\n0\r\n'
    )
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await gateway.raw(chunked + b"accept: evil/*\r\nx-request-id: evil\r\n\r\n")
        assert answer.endswith(OK)
        assert b"evil" not in answer + worker.seen[0].head
        trailers = b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(500))
        extension = chunked.replace(b"d\r\n", b"d;a=" + b"x" * 500_000 + b"\r\n", 1)
        for flood in (chunked + trailers + b"\r\n", extension + b"\r\n"):
            with suppress(ConnectionResetError):  # what is not read any more
                assert b" 200 " not in await gateway.raw(flood)
        assert len(worker.seen) == 1


async def test_a_body_may_come_in_as_many_chunks_as_it_has_bytes(gateway: Any) -> None:
    body = json.dumps({**GOOD, "x": "y" * 60_000}).encode()
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunks = b"".join(b"1;a=b\r\n%c\r\n" % one for one in body) + b"0\r\n\r\n"
    async with StubWorker() as worker:
        await gateway.serve(worker)
        assert (await gateway.raw(head + chunks)).endswith(OK)
        assert worker.seen[0].body == body


async def test_a_head_without_end_behind_a_request_leaves_its_answer_alone(gateway: Any) -> None:
    body = b'{"model":"m","stream":true}'
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    async with StubWorker("paused") as worker:
        await gateway.serve(worker)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head + body)
        begun = await reader.readuntil(b"\n\n")
        writer.write(b"POST / HTTP/1.1\r\nx: " + b"y" * (2 * MAX_HEAD))
        try:
            rest = await reader.read()
        except ConnectionResetError:  # what it had not read of the head resets the connection
            rest = b""
        writer.close()
        assert begun.startswith(b"HTTP/1.1 200 ")
        assert b"431" not in rest


async def test_a_client_of_http_1_0_is_not_told_to_go_on(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await gateway.raw(
            b"POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\n"
            b'expect: 100-continue\r\ncontent-length: 13\r\n\r\n{"model":"m"}'
        )
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(OK)


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
