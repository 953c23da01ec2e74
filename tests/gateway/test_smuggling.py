"""Bytes that are meant to be read differently by the gateway and by a worker.

A corpus over raw sockets (after PortSwigger's and the http-garden's collections). Whatever comes
in, a worker sees at most one request for each that was sent, written anew by the gateway.
"""

import asyncio
import re
from typing import Any

import pytest
from stub_worker import OK, StubWorker

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


PATH = "/v1/completions"
BODY = b'{"model":"m"}'
HIDDEN = b"POST /v1/completions HTTP/1.1\r\nhost: evil\r\ncontent-length: 13\r\n\r\n" + BODY
CHUNKED = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"
TE = "transfer-encoding: chunked"
LENGTH = f"content-length: {len(BODY)}"


def request(*lines: str, body: bytes = BODY, start: str = f"POST {PATH} HTTP/1.1") -> bytes:
    rows = [start, "host: x", "content-type: application/json", *lines]
    return "\r\n".join([*rows, "", ""]).encode("latin-1") + body


LENGTHS = {
    "length and chunks": request("content-length: 6", TE, body=b"0\r\n\r\n" + HIDDEN),
    "chunks and length": request(TE, "content-length: 6", body=b"0\r\n\r\n" + HIDDEN),
    "two lengths": request(LENGTH, "content-length: 0", body=BODY + HIDDEN),
    "two equal lengths": request(LENGTH, LENGTH),
    "a list of lengths": request("content-length: 13, 13"),
    "plus": request("content-length: +13"),
    "minus": request("content-length: -13"),
    "hexadecimal": request("content-length: 0xd"),
    "underscore": request("content-length: 1_3"),
    "octal by leading zero": request("content-length: 013"),
    "fraction": request("content-length: 13.0"),
    "empty": request("content-length: "),
    "space inside": request("content-length: 1 3"),
    "far too large": request("content-length: 99999999999999999999999"),
    "vertical tab": request("content-length: \x0b13"),
    "other digits": request("content-length: \xb9\xb3"),
}
CODINGS = {
    "unknown coding": request("transfer-encoding: xchunked", body=CHUNKED),
    "chunked twice": request(TE, TE, body=CHUNKED + HIDDEN),
    "chunked, then identity": request("transfer-encoding: chunked, identity", body=CHUNKED),
    "identity, then chunked": request("transfer-encoding: identity, chunked", body=CHUNKED),
    "gzip, then chunked": request("transfer-encoding: gzip, chunked", body=CHUNKED),
    "in quotes": request('transfer-encoding: "chunked"', body=CHUNKED),
    "space before colon": request("transfer-encoding : chunked", body=CHUNKED),
    "tab before colon": request("transfer-encoding\t: chunked", body=CHUNKED),
    "space before name": request(" transfer-encoding: chunked", LENGTH, body=BODY),
    "vertical tab": request("transfer-encoding: \x0bchunked", body=CHUNKED),
    "folded": request("transfer-encoding:\r\n chunked", LENGTH, body=BODY + HIDDEN),
    "nul in name": request("transfer\0-encoding: chunked", LENGTH),
    "underscore": request("transfer_encoding: chunked", LENGTH, body=BODY),
    "in HTTP/1.0": request(TE, body=CHUNKED + HIDDEN, start=f"POST {PATH} HTTP/1.0"),
}
CHUNKS = {
    "no number": request(TE, body=b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "minus": request(TE, body=b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "0x": request(TE, body=b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "overflow": request(TE, body=b"1000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "longer than it says": request(TE, body=b"5\r\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
    "bare line feeds": request(TE, body=CHUNKED.replace(b"\r\n", b"\n") + HIDDEN),
    "bare carriage return": request(TE, body=b"d\r" + BODY + b"\r0\r\r" + HIDDEN),
    "line feed in extension": request(TE, body=b"d;a=\n" + BODY + b"\r\n0\r\n\r\n" + HIDDEN),
    "trailer with a length": request(TE, body=CHUNKED[:-2] + b"content-length: 9\r\n\r\n"),
    "trailer for a worker": request(TE, body=CHUNKED[:-2] + b"x-penstock-priority: 9\r\n\r\n"),
}
LINES = {
    "bare line feeds": request(LENGTH).replace(b"\r\n", b"\n"),
    "bare carriage return": request("a: b\rtransfer-encoding: chunked", LENGTH),
    "header without colon": request("evil", LENGTH),
    "empty name": request(": evil", LENGTH),
    "nul in value": request("a: b\0c", LENGTH),
    "two hosts": request("host: evil", LENGTH),
    "absolute target": request(LENGTH, start=f"POST http://evil{PATH} HTTP/1.1"),
    "HTTP/0.9": b"POST /v1/completions\r\n" + BODY,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + BODY,
    "unknown version": request(LENGTH, start=f"POST {PATH} HTTP/9.9"),
    "h2c": request("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AA",
                   LENGTH),
    "websocket": request("connection: upgrade", "upgrade: websocket", LENGTH),
    "tunnel": request(LENGTH, start="CONNECT evil:80 HTTP/1.1", body=HIDDEN),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "blank lines first": b"\r\n\r\n" + request(LENGTH),
    "hidden behind GET": request(LENGTH, start="GET /livez HTTP/1.1", body=HIDDEN[:13]),
    "expect something else": request("expect: 200-ok", LENGTH),
}  # fmt: skip
CORPUS = {"lengths": LENGTHS, "codings": CODINGS, "chunks": CHUNKS, "lines": LINES}

CLEAN = re.compile(
    rb"POST /v1/completions HTTP/1\.1\r\n"
    rb"host: 127\.0\.0\.1:\d+\r\n"
    rb"x-request-id: [A-Za-z0-9._-]+\r\n"
    rb"content-type: application/json\r\n"
    rb"content-length: \d+\r\n"
    rb"(traceparent: [!-~]+\r\n|accept: [ -~]+\r\n|x-penstock-journal: 1\r\n)*"
    rb"\r\n"
)


HEADERS = [
    ["connection: content-length, keep-alive"],
    ["connection: close, x-penstock-priority", "x-penstock-priority: 9"],
    ["x-penstock-priority: 9", "X-PENSTOCK-Cache-Salt: a", "x-Penstock-Journal: 1"],
    ["x_penstock_priority: 9", "x-penstock_priority: 9"],
    ["te: trailers", "trailer: x-penstock-attempt", "proxy-authorization: Basic eA=="],
    ["keep-alive: timeout=9", "proxy-connection: keep-alive", "upgrade-insecure-requests: 1"],
    ["cookie: a=b", "authorization: Bearer sk-secret", "x-api-key: sk-secret"],
    ["forwarded: for=evil", "x-forwarded-for: 1.1.1.1", "x-forwarded-host: evil"],
    ["x-original-url: /pause", "x-rewrite-url: /pause", "x-http-method-override: DELETE"],
    ["range: bytes=0-1", "if-none-match: *", "if-modified-since: x"],
    ["content-encoding: identity", "content-md5: x", "content-location: /pause"],
]
PATHS = [
    f"{PATH}/../../pause", "/v1/../pause", "//pause", f"{PATH}/", f"/.{PATH}", f"/{PATH}",
    f"{PATH}%2f..%2f..%2fpause", "/v1%2fcompletions", f"{PATH}%00", f"{PATH};x=/pause",
    "/V1/COMPLETIONS", "/pause", "/internal/../pause", "*",
]  # fmt: skip


def numbered(number: int, data: bytes) -> bytes:
    """Return a request with a header that tells its worker's side which one it was."""
    start, end, rest = data.partition(b"\r\n")
    return start + end + (b"x-request-id: case-%d\r\n" % number if end else b"") + rest


@pytest.mark.parametrize("kind", CORPUS)
async def test_a_worker_sees_each_request_once_and_clean_or_not_at_all(
    gateway: Any, kind: str
) -> None:
    cases = CORPUS[kind]
    async with StubWorker() as worker:
        await gateway.serve(worker)
        sent = [numbered(number, data) for number, data in enumerate(cases.values())]
        answers = [bytearray() for _ in sent]

        def answered() -> int:
            return sum(answer.count(b"HTTP/1.1 200 OK") for answer in answers)

        def busy() -> bool:
            return len(worker.seen) > answered()

        asked = zip(sent, answers, strict=True)
        await asyncio.gather(*(gateway.raw(data, 5, answer, busy) for data, answer in asked))
        for number, (name, answer) in enumerate(zip(cases, answers, strict=True)):
            own = [seen for seen in worker.seen if b": case-%d\r\n" % number in seen.head]
            assert len(own) <= 1, name
            assert answer.count(b"HTTP/1.1 200 ") >= len(own), name
        # A second request in plain sight may be one, and is answered; none is hidden in another.
        assert len(worker.seen) <= answered()
        for seen in worker.seen:
            assert CLEAN.fullmatch(seen.head), seen.head
            assert seen.body == BODY
        assert (await gateway.raw(request(LENGTH, "connection: close"))).endswith(OK)


async def test_no_header_of_a_client_reaches_a_worker_unless_it_is_known(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        for lines in HEADERS:
            answer = await gateway.raw(request(LENGTH, *lines, "connection: close"))
            assert answer.endswith(OK), lines
            assert CLEAN.fullmatch(worker.seen[-1].head), worker.seen[-1].head
        assert len(worker.seen) == len(HEADERS)


async def test_no_path_leads_anywhere_but_where_it_says(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        for path in PATHS:
            data = request(LENGTH, "connection: close", start=f"POST {path} HTTP/1.1")
            answer = await gateway.raw(data)
            assert re.match(rb"HTTP/1.1 (400|404|405) ", answer), path
        assert not worker.seen
        for query in ("?x=/pause", "?", "?a#b", "#/pause"):
            data = request(LENGTH, "connection: close", start=f"POST {PATH}{query} HTTP/1.1")
            await gateway.raw(data, quiet=1)
        for seen in worker.seen:
            assert CLEAN.fullmatch(seen.head), seen.head
