"""All clients' bodies together have a bound, and the greediest upload pays for it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_worker import OK, StubWorker

from penstock_contract.errors import ApiError
from penstock_gateway.instruments import Number
from penstock_gateway.relay.bodies import USUALLY, Bodies, bytes_of_all

MOST = 1 << 20
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


@pytest.mark.parametrize(
    ("body", "processes", "found"),
    [
        (32 << 20, 1, USUALLY),
        (32 << 20, 4, USUALLY),
        (32 << 20, 8, 256 << 20),
        (1 << 30, 1, 1 << 30),
    ],
)
def test_without_a_wish_every_process_has_room_for_the_largest_body(
    body: int, processes: int, found: int
) -> None:
    assert bytes_of_all(None, body, processes) == found


@pytest.mark.parametrize(
    ("wanted", "processes", "said"),
    [(MOST - 1, 1, "not be less than --max-body"), (2 * MOST - 1, 2, "give 2Mi or more, or leave")],
)
def test_a_wish_that_leaves_no_room_for_a_body_is_refused(
    wanted: int, processes: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        bytes_of_all(wanted, MOST, processes)
    assert bytes_of_all(wanted + 1, MOST, processes) == wanted + 1


class Upload:
    """Holds what it was given, until it is shed or over."""

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.size = 0
        self.refused = False
        self.complete = False

    def feed(self, size: int) -> None:
        if not self.refused:
            self.size += size
            self.bodies.grow(self, size)

    def whole(self) -> None:
        self.complete = True
        self.bodies.whole(self)

    def shed(self, error: ApiError) -> None:
        assert error.retry_after == 1
        self.refused = True
        self.over()

    def over(self) -> None:
        self.bodies.give_back(self, self.size)
        self.size = 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["feed", "whole", "over"]),
                       st.integers(1, 60)))
)  # fmt: skip
def test_the_bound_holds_and_whole_bodies_are_never_let_go(
    steps: list[tuple[int, str, int]],
) -> None:
    bodies = Bodies(100, Number())
    uploads = [Upload(bodies) for _ in range(6)]
    for number, what, size in steps:
        upload = uploads[number]
        if what == "feed" and not upload.complete:
            upload.feed(size)
        elif what == "whole" and not upload.refused:
            upload.whole()
        elif what == "over":
            upload.over()
            uploads[number] = Upload(bodies)
        assert bodies.held.value == sum(one.size for one in uploads) <= 100
        assert not any(one.complete and one.refused for one in uploads)


def test_the_largest_goes_first() -> None:
    bodies = Bodies(100, Number())
    large, small = Upload(bodies), Upload(bodies)
    large.feed(80)
    small.feed(30)
    assert large.refused
    assert not small.refused


@pytest.fixture
async def tight(gateway: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A gateway with room for two large bodies."""
    folder = tmp_path / "tight"
    folder.mkdir()
    found = type(gateway)(folder, "--max-body", "1Mi", "--max-bodies", "1Mi")
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def held(gateway: Any) -> int:
    async with plain_http.client() as client:
        text = (await client.get(f"{gateway.url}/metrics")).text
    (line,) = [row for row in text.splitlines() if row.startswith("penstock_gateway_request_body")]
    return int(float(line.split()[1]))


@pytest.mark.anyio
async def test_many_slow_uploads_are_refused_and_small_requests_are_served(tight: Any) -> None:
    async with StubWorker() as worker:
        await tight.serve(worker)
        uploads = [await asyncio.open_connection("127.0.0.1", tight.port) for _ in range(40)]
        for _, writer in uploads:
            writer.write(HEAD % (200 << 10) + b" " * (100 << 10))
        answers = [asyncio.create_task(reader.readline()) for reader, _ in uploads]
        deadline = time.monotonic() + 60
        while sum(answer.done() for answer in answers) < 30 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        refused = [answer.result() for answer in answers if answer.done()]
        assert len(refused) == 30, "ten fit"
        assert all(line.startswith(b"HTTP/1.1 503 ") for line in refused)
        assert 0 < await held(tight) <= MOST
        body = b'{"model":"m"}'
        reader, writer = await asyncio.open_connection("127.0.0.1", tight.port)
        writer.write(HEAD % len(body) + body)
        assert OK in await asyncio.wait_for(reader.readuntil(OK), 60)
        for _, open_one in [*uploads, (reader, writer)]:
            open_one.close()
        while await held(tight) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert await held(tight) == 0
