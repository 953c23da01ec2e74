"""A pooled HTTP/1.1 client for workers: one request at a time per connection, body as it comes.

httpx costs milliseconds of CPU per request; this costs tens of microseconds, because it does only
what the gateway needs. httptools parses the framing. Reading stops while the client does not keep
up, so a slow reader holds back its worker instead of filling the gateway's memory.
"""

import asyncio
import time
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import httptools

from penstock_contract.metrics import Fault

HIGH_WATER = 8 * 1024
"""Bytes of one answer held for a slow client before reading stops."""
READ_SIZE = 8 * 1024
"""Bytes taken from a worker at once; a client that does not read costs a few times as much."""
MAX_IDLE = 128
"""Idle connections kept per worker."""
MAX_HEAD = 64 * 1024
"""Bytes before the end of the response head; more is garbage."""


CONNECT_SECONDS = 1.5
"""For a connection: time for one lost packet."""


class UpstreamError(Exception):
    """The worker did not serve the request to its end."""

    def __init__(self, reason: str, fault: Fault = Fault.LOST) -> None:
        super().__init__(reason)
        self.fault = fault


class Response:
    """The head of an answer; `Connection.piece` gives the rest."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers

    def header(self, name: bytes) -> bytes:
        """Return a header's value, or nothing."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class Connection(asyncio.BufferedProtocol):
    """One connection to a worker.

    Args:
        buffer: to read into; what is read is copied at once, so that all connections may share it.
    """

    def __init__(self, buffer: memoryview | None = None) -> None:
        self._buffer = memoryview(bytearray(READ_SIZE)) if buffer is None else buffer
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.reusable = False
        self.heard = 0.0
        """When the worker last said something, or was asked; monotonic seconds."""
        self.longest = 0.0
        """Longest silence inside the body, in seconds."""
        self.pieces = 0
        """Of the body, so far."""
        self.paused = False
        """The client is behind: the worker's silence is ours."""
        self._parser: httptools.HttpResponseParser | None = None
        self._head: asyncio.Future[Response] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._chunks: list[bytes] = []
        self._held = 0
        self._arrived = asyncio.Event()
        self._complete = False
        self._failure: UpstreamError | None = None
        self._began_at = 0.0

    @property
    def whole(self) -> bool:
        """The answer has come to its end."""
        return self._complete

    @property
    def mean_pause(self) -> float:
        """Seconds between pieces of the body, but for what the client made it wait."""
        return (self.heard - self._began_at) / max(1, self.pieces - 1)

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def get_buffer(self, _: int) -> memoryview:
        """Return where to read into."""
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        """So many bytes have been read."""
        self.data_received(bytes(self._buffer[:size]))

    def data_received(self, data: bytes) -> None:
        """Parse what the worker sent."""
        if self._parser is None or self._complete:
            self.abort("the worker spoke without being asked", Fault.GARBAGE)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(f"what the worker answered is not HTTP: {error}", Fault.GARBAGE)
            return
        if self._head is not None and not self._head.done():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.abort("the worker's response head is too large", Fault.GARBAGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker, or the network between, has gone."""
        self.closed = True
        self._fail(f"the worker closed the connection{f': {exc}' if exc else ''}")

    # httptools

    def on_message_begin(self) -> None:
        """An answer begins: the one asked for, an interim one before it, or one too many."""
        self._headers = []
        if self._complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there, unless it is an interim one."""
        if self._parser is None or self._head is None:
            return
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status >= 200 and not self._head.done():
            self._head.set_result(Response(status, self._headers))

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body; stop reading when the client is behind."""
        if self._complete:
            return
        self._note_time()
        self._chunks.append(body)
        self._held += len(body)
        self._arrived.set()
        if self._held > HIGH_WATER and self.transport is not None and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._complete:
            self.reusable = False
        elif self._parser is not None and self._parser.get_status_code() >= 200:
            self._complete = True
            self.reusable = self._parser.should_keep_alive()
            self._arrived.set()

    # use

    async def send(self, request: bytes) -> Response:
        """Send a request and return the head of its answer.

        Raises:
            UpstreamError: the connection broke before the head was complete.
        """
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._head = asyncio.get_running_loop().create_future()
        self._headers, self._head_bytes = [], 0
        self._chunks.clear()
        self._held = 0
        self._complete = self.reusable = False
        self._failure, self.longest, self.pieces = None, 0.0, 0
        self._arrived.clear()
        if self.closed or self.transport is None:
            raise UpstreamError("the worker closed the connection")
        self.heard = time.monotonic()
        self.transport.write(request)
        return await self._head

    async def piece(self) -> bytes:
        """Return what has come of the body since, at least a byte; nothing when that was all.

        Raises:
            UpstreamError: the answer ended before its end.
        """
        while not self._chunks:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        found = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._held = 0
        if self.paused:
            self._read_on()
        return found

    def abort(self, reason: str = "the request was given up", fault: Fault = Fault.LOST) -> None:
        """Close at once; a worker takes that as a cancelled request."""
        self._fail(reason, fault)
        if self.transport is not None:
            self.transport.abort()
        self.closed = True

    def _fail(self, reason: str, fault: Fault = Fault.LOST) -> None:
        if self._complete:
            return
        self._failure = self._failure or UpstreamError(reason, fault)
        self._arrived.set()
        if self._head is not None and not self._head.done():
            self._head.set_exception(self._failure)
            self._head.exception()  # nobody may be waiting any more

    def _note_time(self) -> None:
        now = time.monotonic()
        if not self.pieces:
            self._began_at = now
        elif now - self.heard > self.longest:
            self.longest = now - self.heard
        self.pieces += 1
        self.heard = now

    def _read_on(self) -> None:
        """The client has caught up; only from now on is silence the worker's."""
        now = time.monotonic()
        self._began_at += now - self.heard
        self.paused, self.heard = False, now
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()


class Pool:
    """Connections to all workers, by base URL."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Connection]] = {}
        self._buffer = memoryview(bytearray(READ_SIZE))

    def idle(self, url: str) -> Connection | None:
        """Return an open idle connection, newest first (the oldest may be about to time out)."""
        connections = self._idle.get(url, [])
        while connections:
            connection = connections.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self, url: str) -> Connection:
        """Return a new connection.

        Raises:
            UpstreamError: the worker does not accept one.
        """
        where = urlsplit(url)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    partial(Connection, self._buffer), where.hostname or "", where.port or 80
                )
        except (OSError, TimeoutError) as error:
            reason = f"cannot connect to {url}: {error or 'timed out'}"
            raise UpstreamError(reason, Fault.UNREACHABLE) from error
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection whose answer was read to the end; abort any other."""
        idle = self._idle.setdefault(url, [])
        if connection.reusable and not connection.closed and len(idle) < MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def keep_only(self, urls: set[str]) -> None:
        """Close the connections to workers that are gone."""
        for url in self._idle.keys() - urls:
            for connection in self._idle.pop(url):
                connection.abort()
