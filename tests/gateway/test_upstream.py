"""The client for workers, fed by hand: how the network cuts an answer must not matter."""

import asyncio
import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.response import Response, UpstreamError
from penstock_gateway.relay.upstream import HIGH_WATER, MAX_HEAD, Connection


class Wire(asyncio.Transport):
    """A transport that keeps what is written and whether anyone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.aborted = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


def open_connection(clock: Callable[[], float] = time.monotonic) -> tuple[Connection, Wire]:
    connection, wire = Connection(clock=clock), Wire()
    connection.connection_made(wire)
    return connection, wire


async def asked(connection: Connection) -> asyncio.Task[Response]:
    task = asyncio.create_task(connection.send(b"request"))
    await asyncio.sleep(0)
    return task


async def collect(connection: Connection) -> bytes:
    found = b""
    while piece := await connection.piece():
        found += piece
    return found


async def whole(head: asyncio.Task[Response], connection: Connection) -> bytes:
    await head
    return await collect(connection)


def sized(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"content-length: %d" % len(body), b"", body])


def chunked(pieces: list[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in [*pieces, b""])


async def read_in_pieces(answer: bytes, cuts: set[int]) -> tuple[Response, bytes, Connection]:
    connection, _ = open_connection()
    head = await asked(connection)
    edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            connection.data_received(answer[start:end])
    return await head, await collect(connection), connection


cuts = st.sets(st.integers(1, 400), max_size=40)


@given(st.binary(max_size=300), cuts)
def test_an_answer_of_known_length_may_come_in_any_pieces(body: bytes, at: set[int]) -> None:
    response, found, connection = asyncio.run(read_in_pieces(sized(body, b"X-A: b"), at))
    assert (response.status, response.header(b"x-a"), found) == (200, b"b", body)
    assert connection.reusable


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6), cuts)
def test_a_chunked_answer_may_come_in_any_pieces(pieces: list[bytes], at: set[int]) -> None:
    _, found, connection = asyncio.run(read_in_pieces(chunked(pieces), at))
    assert found == b"".join(pieces)
    assert connection.reusable


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6), st.data())
def test_an_answer_cut_anywhere_is_never_taken_for_whole(
    pieces: list[bytes], data: st.DataObject
) -> None:
    answer = chunked(pieces)
    end = data.draw(st.integers(0, len(answer) - 1))

    async def cut() -> None:
        connection, _ = open_connection()
        head = await asked(connection)
        if end:
            connection.data_received(answer[:end])
        connection.connection_lost(None)
        with pytest.raises(UpstreamError, match="closed the connection"):
            await whole(head, connection)
        assert not connection.reusable

    asyncio.run(cut())


def run(
    scenario: Callable[[Connection, Wire], object], clock: Callable[[], float] = time.monotonic
) -> None:
    async def inside() -> None:
        coroutine = scenario(*open_connection(clock))
        assert asyncio.iscoroutine(coroutine)
        await coroutine

    asyncio.run(inside())


def test_one_connection_carries_answer_after_answer() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        for body in (b"one", b"", b"three"):
            head = await asked(connection)
            connection.data_received(sized(body))
            await head
            assert await collect(connection) == body
        assert wire.written == b"request" * 3

    run(scenario)


def test_reading_stops_while_the_client_is_behind_and_goes_on_after() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        body = bytes(2 * HIGH_WATER)
        connection.data_received(sized(body)[:200])
        for start in range(0, len(body), 1 << 16):
            connection.data_received(sized(body)[200:][start : start + (1 << 16)])
        await head
        assert not wire.reading
        assert await collect(connection) == body
        assert wire.reading

    run(scenario)


def test_a_stream_whose_client_is_behind_is_read_again_when_it_is_asked_for() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        connection.data_received(chunked([b"a", b"b"])[:-5])
        await head
        taken: list[bytes] = []

        def take(data: bytes) -> bool:
            taken.append(data)
            connection.pause()
            return False

        assert await connection.pump(take)
        before = wire.reading
        rest = asyncio.create_task(connection.pump(take))
        await asyncio.sleep(0)
        assert (before, wire.reading) == (False, True)
        connection.data_received(chunked([b"c"])[-11:])
        assert await rest
        assert taken == [b"ab", b"c"]

    run(scenario)


def test_what_a_client_makes_it_wait_does_not_make_a_worker_slow() -> None:
    now = 0.0

    async def scenario(connection: Connection, _: Wire) -> None:
        nonlocal now
        await asked(connection)
        answer = sized(bytes(8 * HIGH_WATER))
        for start in range(0, len(answer), 2 * HIGH_WATER):
            now += 0.1
            connection.data_received(answer[start : start + 2 * HIGH_WATER])
            now += 60
            await connection.piece()
        assert connection.pieces > 4
        assert connection.mean_pause == pytest.approx(0.1)

    run(scenario, lambda: now)


def test_a_head_without_end_is_cut_off() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        connection.data_received(b"HTTP/1.1 200 OK\r\nx: " + b"y" * MAX_HEAD)
        with pytest.raises(UpstreamError, match="too large"):
            await head
        assert wire.aborted

    run(scenario)


def test_a_worker_that_speaks_unasked_is_hung_up_on() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        connection.data_received(sized(b"hello"))
        assert wire.aborted
        assert connection.closed

    run(scenario)


def test_a_small_head_may_come_together_with_a_large_body() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        body = bytes(MAX_HEAD + 1)
        connection.data_received(sized(body))
        await head
        assert await collect(connection) == body

    run(scenario)


def test_an_answer_ends_where_its_length_says_whatever_the_worker_sends_then() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        connection.data_received(sized(b"mine") + sized(b"not asked for"))
        await head
        assert await collect(connection) == b"mine"

    run(scenario)


def test_a_connection_on_which_too_much_came_is_not_used_again() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        pool = ConnectionPool()
        head = await asked(connection)
        connection.data_received(sized(b"mine"))
        await head
        await collect(connection)
        pool.give_back("http://w", connection)
        connection.data_received(sized(b"for nobody")[:20])
        assert pool.idle("http://w") is None

    run(scenario)


def test_the_headers_of_an_interim_answer_are_not_the_answers() -> None:
    async def scenario(connection: Connection, wire: Wire) -> None:
        head = await asked(connection)
        connection.data_received(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + sized(b"mine"))
        response = await head
        assert await collect(connection) == b"mine"
        assert response.header(b"link") == b""

    run(scenario)
