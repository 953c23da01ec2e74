"""What the gateway answers by itself: errors in OpenAI's shape, and hostile bytes."""

import json
import re
from typing import Any

import plain_http
import pytest
from stub_worker import OK, StubWorker

from penstock_contract.headers import ROUTE_REASON

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "status", "code", "param"),
    [
        (b"{", JSON, 400, "invalid_json", None),
        (b"[]", JSON, 400, "invalid_json", None),
        (b"{}", JSON, 400, "invalid_request", "model"),
        (b'{"model": 3}', JSON, 400, "invalid_request", "model"),
        (b'{"model": "x"}', JSON, 404, "model_not_found", "model"),
        (b'{"model": "m"}', {"content-type": "text/plain"}, 415, "unsupported_media_type", None),
        (b"x", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type", None),
        (b'{"model": "m", "x": "' + b"x" * 100_000 + b'"}', JSON, 413, "request_too_large", None),
        (b'{"model": "m"}', JSON, 503, "no_capacity", None),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_cannot_be_taken_is_refused_with_its_code(
    gateway: Any, content: bytes, headers: dict[str, str], status: int, code: str, param: str | None
) -> None:
    await gateway.serve()
    arrivals, refusals = "penstock_gateway_arrivals_total", "penstock_gateway_refusals_total"
    arrived = await gateway.metric(arrivals)
    refused = await gateway.metric(refusals, code=code)
    async with plain_http.client() as client:
        answer = await client.post(
            f"{gateway.url}/v1/completions", content=content, headers=headers
        )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert await gateway.metric(refusals, code=code) == refused + 1
    assert await gateway.metric(arrivals) == arrived


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("POST", "/pause", 404, "not_found"),
        ("POST", "/reset_prefix_cache", 404, "not_found"),
        ("GET", "/docs/x", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
    ],
)
async def test_what_is_not_on_the_list_is_not_there(
    gateway: Any, method: str, path: str, status: int, code: str
) -> None:
    async with plain_http.client() as client:
        answer = await client.request(method, gateway.url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings", "/models", "/batches"])
async def test_whoever_forgets_v1_is_told(gateway: Any, path: str) -> None:
    async with plain_http.client() as client:
        answer = await client.post(gateway.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"POST {path}: Not Found; it is at /v1{path}"


async def test_models_aliases_and_adapters_are_listed(gateway: Any) -> None:
    await gateway.serve()
    listed = (await gateway.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["m", "org/alias", "sql"]
    assert [model.get("parent") for model in listed] == [None, None, "m"]
    assert (await gateway.get("/v1/models/org/alias")).json()["id"] == "org/alias"
    assert (await gateway.get("/v1/models/sql")).json()["parent"] == "m"


async def test_an_adapter_is_served_by_its_models_workers_and_shares_no_prefix(
    gateway: Any,
) -> None:
    prompt = "many words " * 200
    async with StubWorker() as one:
        await gateway.serve(one)

        async def matched(name: str) -> int:
            """Return how many tokens the gateway expects to be cached."""
            body = {"model": name, "prompt": prompt, "max_tokens": 1}
            async with plain_http.client() as client:
                answer = await client.post(gateway.url + "/v1/completions", json=body)
            assert answer.status_code == 200
            reason = answer.headers[ROUTE_REASON]
            return int(re.search(r"matched=(\d+)", reason)[1])  # type: ignore[index]

        found = [await matched(name) for name in ("m", "org/alias", "sql", "sql")]
        assert found[0] == found[2] == 0
        assert found[1] == found[3] > 0
        assert b'"model":"sql"' in one.seen[-1].body


def request(*headers: str, body: bytes = b"") -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "host: x", "content-type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


BODY = b'{"model":"m"}'
SMUGGLED = b"POST /v1/completions HTTP/1.1\r\nhost: evil\r\ncontent-length: 0\r\n\r\n"

HOSTILE = {
    "both lengths": request(
        "content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two lengths": request("content-length: 13", "content-length: 0", body=BODY + SMUGGLED),
    "odd length": request("content-length: +13", body=BODY),
    "negative length": request("content-length: -1", body=BODY),
    "unknown coding": request("transfer-encoding: xchunked", body=BODY),
    "space before colon": request("content-length : 13", body=BODY),
    "bad chunk size": request("transfer-encoding: chunked", body=b"zz\r\n" + BODY),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nul in a header": request("x: a\0b", "content-length: 13", body=BODY),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_framing_never_reaches_a_worker_as_two_requests(
    gateway: Any, name: str
) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        await gateway.raw(HOSTILE[name], quiet=1)
        assert len(worker.seen) <= 1
        for seen in worker.seen:
            assert b"evil" not in seen.head + seen.body
            assert seen.head.lower().count(b"content-length") == 1
            assert b"transfer-encoding" not in seen.head.lower()
        # A healthy client is unharmed.
        answer = await gateway.raw(request("content-length: 13", "connection: close", body=BODY))
        assert answer.endswith(OK)


async def test_requests_may_come_in_any_pieces_and_back_to_back(gateway: Any) -> None:
    import asyncio

    async with StubWorker() as worker:
        await gateway.serve(worker)
        one = request("content-length: 13", body=BODY)
        last = request("content-length: 13", "connection: close", body=BODY)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for byte in one:
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(one + last)
        assert (await reader.read()).count(OK) == 3
        writer.close()
        assert [json.loads(seen.body) for seen in worker.seen] == [{"model": "m"}] * 3


async def test_chunked_request_bodies_are_understood(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        chunks = b"5\r\n" + BODY[:5] + b"\r\n8\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
        answer = await gateway.raw(
            request("transfer-encoding: chunked", "connection: close", body=chunks)
        )
        assert answer.endswith(OK)
        assert worker.seen[0].body == BODY
