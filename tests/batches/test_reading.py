"""What is read from clients: input files and uploads, in whatever pieces they come."""

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.errors import ApiError
from penstock_gateway.batches.gateway_client import Fate, fate
from penstock_gateway.batches.limits import MOST_LINES
from penstock_gateway.batches.lines import MAX_LINE, LineError, answer_line, parse
from penstock_gateway.batches.steps import MOST_PROBLEMS, check
from penstock_gateway.batches.upload import MOST_AT_ONCE, Upload, Uploads
from penstock_gateway.form import Bounds, Form

URL = "/v1/completions"
KIND = "multipart/form-data; boundary=xx"


def request(custom_id: str = "a", **changes: Any) -> bytes:
    found = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m"}}
    return json.dumps({**found, **changes}).encode()


@given(st.lists(st.sampled_from([b"", b" ", b"\r"]), max_size=8), st.booleans())
def test_each_request_is_found_where_it_is(gaps: list[bytes], last_newline: bool) -> None:
    lines = [line for n, gap in enumerate(gaps) for line in (request(f"n{n}é"), gap)]
    content = b"\n".join(lines) + b"\n" * last_newline
    source = _Bytes(content)
    entries, problems = check(source, URL)
    if not gaps:
        assert [problem.code for problem in problems] == ["empty_file"]
        return
    assert not problems
    for entry, number in zip(entries, range(len(gaps)), strict=True):
        assert content[entry.start : entry.start + entry.size] == request(f"n{number}é")
        assert entry.number == 2 * number + 1


class _Bytes(type(Path())):  # type: ignore[misc]
    """A path whose content is at hand."""

    def __new__(cls, content: bytes) -> "_Bytes":
        found: _Bytes = super().__new__(cls, "input")
        found._content = content
        return found

    def open(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self._content)


def test_a_line_that_is_too_long_is_refused_and_those_behind_it_are_read(tmp_path: Path) -> None:
    source = tmp_path / "input"
    padding = "x" * MAX_LINE
    source.write_bytes(b"\n".join([request("a", body=padding), b"wrong", request("b")]))
    entries, problems = check(source, URL)
    assert [(found.line, found.code) for found in problems] == [
        (1, "line_too_long"),
        (2, "invalid_json_line"),
    ]
    assert [entry.custom_id for entry in entries] == ["b"]


def test_a_file_may_have_so_many_requests_and_not_one_more(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_bytes(b"\n".join(request(f"{n}") for n in range(MOST_LINES)))
    assert len(check(source, URL)[0]) == MOST_LINES
    with source.open("ab") as content:
        content.write(b"\n" + request("more"))
    assert [found.code for found in check(source, URL)[1]] == ["too_many_requests"]


def test_so_many_problems_are_told(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_bytes(b"wrong\n" * 1000)
    assert len(check(source, URL)[1]) == MOST_PROBLEMS
    assert [found.code for found in check(tmp_path / "none", URL)[1]] == ["invalid_input_file"]


@given(st.binary(max_size=300))
def test_whatever_a_line_is_it_is_a_request_or_refused(line: bytes) -> None:
    with pytest.raises(LineError):
        parse(line, URL)


def test_a_line_that_would_unfold_to_too_much_is_refused() -> None:
    with pytest.raises(LineError, match="values"):
        parse(b'{"a":[' + b"[]," * 1_100_000 + b"[]]}", URL)


def test_a_line_that_is_taken_can_be_sent() -> None:
    line = '{"custom_id":"a","method":"POST","url":"%s","body":{"model":"m","metadata":%s}}'

    def deep(depth: int) -> str:
        return "[" * depth + "]" * depth

    content = parse((line % (URL, deep(250))).encode(), URL).content
    assert content == b'{"model":"m","metadata":%s}' % deep(250).encode()
    with pytest.raises(LineError, match="nested"):
        parse((line % (URL, deep(300))).encode(), URL)


@given(st.text(max_size=30), st.recursive(st.text() | st.integers(0, 9), st.lists, max_leaves=5))
def test_an_answer_is_one_line(custom_id: str, body: Any) -> None:
    try:
        line = answer_line("id", custom_id, 200, "req", orjson.dumps(body))
    except TypeError:  # a lone surrogate is no text, and no JSON has brought it
        return
    assert line.count(b"\n") == 1
    assert json.loads(line)["response"]["body"] == body


@pytest.mark.parametrize(
    ("status", "failures", "expected"),
    [
        (200, 0, Fate.DONE),
        (400, 0, Fate.DONE),
        (404, 0, Fate.DONE),
        *((status, 99, Fate.LATER) for status in (0, 401, 408, 429, 503)),
        (500, 0, Fate.AGAIN),
        (502, 1, Fate.AGAIN),
        (504, 2, Fate.DONE),
    ],
)
def test_what_becomes_of_a_request(status: int, failures: int, expected: Fate) -> None:
    assert fate(status, failures) is expected


def form(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--xx\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + b"--xx--\r\n"


def field(name: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%b"' % name


FILE = b'content-disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: x/y'


async def read(body: bytes, sizes: list[int], most: int = 1000) -> tuple[Form, bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        left = body
        for size in sizes:
            yield left[:size]
            left = left[size:]
        yield left

    target = io.BytesIO()
    found = await Upload(KIND, target, most).read(pieces())
    return found, target.getvalue()


def run(body: bytes, sizes: list[int] | None = None, most: int = 1000) -> tuple[Form, bytes]:
    """Read a form."""
    return asyncio.run(read(body, sizes or [], most))


@given(st.binary(max_size=200), st.lists(st.integers(1, 20), max_size=40))
def test_an_upload_is_read_in_whatever_pieces_it_comes(content: bytes, sizes: list[int]) -> None:
    content = content.replace(b"--xx", b"")
    body = form((field(b"purpose"), b"batch"), (FILE, content))
    found, written = run(body, sizes)
    assert found == Form({"purpose": "batch"}, "a.jsonl", len(content))
    assert written == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form((field(b"purpose"), b"batch")),
        form((FILE, b"x"))[:-8],
        form((FILE, b"x"), (FILE, b"y")),
        form((FILE.replace(b'"file"', b'"other"'), b"x")),
        form((FILE, b"x" * 1001)),
        form((field(b"purpose"), b"x" * 1025), (FILE, b"x")),
        form((b"x-long: " + b"x" * 1025, b"x"), (FILE, b"x")),
        form(*((field(b"f%d" % n), b"x") for n in range(Bounds(0).fields + 1)), (FILE, b"x")),
        form((FILE, b"x"), *((field(b"again"), b"x") for _ in range(Bounds(0).fields + 1))),
        b"x" * 100,
    ],
)
def test_a_form_that_is_not_right_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        run(body)


def test_others_are_served_while_a_disk_is_behind() -> None:
    served = threading.Event()

    class Disk(io.BytesIO):
        def write(self, data: Any) -> int:
            assert served.wait(60)
            return super().write(data)

    async def body() -> AsyncIterator[bytes]:
        yield form((FILE, b"x"))

    async def both() -> None:
        upload = asyncio.create_task(Upload(KIND, Disk(), 10).read(body()))
        await asyncio.sleep(0.05)  # it writes by now
        served.set()
        assert (await upload).bytes == 1

    asyncio.run(both())


def test_a_tenant_has_so_many_uploads_at_once_and_others_do_not_mind() -> None:
    uploads = Uploads()
    with ExitStack() as under_way:
        for _ in range(MOST_AT_ONCE):
            under_way.enter_context(uploads.one("ann"))
        with pytest.raises(ApiError, match="under way"), uploads.one("ann"):
            pass
        with uploads.one("bob"):
            pass
    with uploads.one("ann"):
        pass


def test_of_a_refused_upload_some_is_read_on_and_not_all_of_it() -> None:
    with pytest.raises(ApiError, match="1000 bytes"):
        run(form((FILE, b"x" * 100_000)), [500] * 200)


@given(st.binary(max_size=400))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        run(b"--xx" + body)
