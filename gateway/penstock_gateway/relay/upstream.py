"""An HTTP/1.1 client for workers: one request at a time per connection, body as it comes.

httpx costs milliseconds of CPU per request; this costs tens of microseconds, because it does only
what the gateway needs. httptools parses the framing. Reading stops while the client does not keep
up, so a slow reader holds back its worker instead of filling the gateway's memory.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools

from penstock_contract.metrics import Fault
from penstock_gateway.relay.response import Response, UpstreamError

HIGH_WATER = 8 * 1024
"""Bytes of one answer held for a slow client before reading stops."""
READ_SIZE = 8 * 1024
STREAM_READ_SIZE = 2 * 1024
"""Bytes taken from a worker at once; a client that does not read a stream costs as much."""
MAX_HEAD = 64 * 1024
"""Bytes before the end of the response head; more is garbage."""

Take = Callable[[bytes], bool]


class Connection:
    """One connection to a worker; to asyncio a buffered protocol.

    Args:
        buffer: to read into; what is read is copied at once, so that all connections may share it.
        clock: monotonic seconds.
    """

    def __init__(
        self, buffer: memoryview | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._whole_buffer = memoryview(bytearray(READ_SIZE)) if buffer is None else buffer
        self._buffer = self._whole_buffer
        self.transport: Any = None
        self.closed = self.reusable = False
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
        self._head_bytes = self._held = 0
        self._chunks: list[bytes] = []
        self._take: Take | None = None
        self._enough = self._complete = False
        self._raised: Exception | None = None
        self._news: asyncio.Future[None] | None = None
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

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport  # uvloop's is none by inheritance

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
        if self._take is not None and self._chunks:
            self._hand_over(self._take)
        if self._head is not None and not self._head.done():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.abort("the worker's response head is too large", Fault.GARBAGE)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker, or the network between, has gone."""
        self.closed = True
        self._fail(f"the worker closed the connection{f': {exc}' if exc else ''}")
        self._parser = self.transport = None  # they and this refer to each other

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
        if self._parser is None or self._head is None or self._complete:
            return
        status = self._parser.get_status_code()
        if status >= 200 and not self._head.done():
            self._head.set_result(Response(status, self._headers))

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body; stop reading when the client is behind."""
        if self._complete:
            return
        self._note_time()
        self._chunks.append(body)
        self._held += len(body)
        if self._take is not None:
            return
        self._tell()
        if self._held > HIGH_WATER:
            self.pause()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._complete:
            self.reusable = False
        elif self._parser is not None and self._parser.get_status_code() >= 200:
            self._complete = True
            self.reusable = self._parser.should_keep_alive()
            self._tell()

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
        self._held, self._buffer = 0, self._whole_buffer
        self._complete = self.reusable = False
        self._failure, self._raised, self.longest, self.pieces = None, None, 0.0, 0
        if self.closed:
            raise UpstreamError("the worker closed the connection")
        self.heard = self._clock()
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
            await self._wait()
        found = self._taken()
        self._read_on()
        return found

    async def pump(self, take: Take) -> bool:
        """Hand over what comes of a stream as soon as it comes, without waking anyone for it.

        `take` is given at least a byte, and returns whether it wants to be given more. Return
        whether there may be more: `take` did not want it.

        Raises:
            UpstreamError: the answer ended before its end.
        """
        self._buffer = self._whole_buffer[:STREAM_READ_SIZE]
        first = await self.piece()
        if not (first and take(first)):
            return bool(first)
        self._take, self._enough = take, False
        try:
            while not (self._enough or self._complete or self._failure):
                await self._wait()
        finally:
            self._take = None
        error = self._raised if self._enough or self._complete else self._failure
        if error is not None:
            raise error
        return self._enough

    def pause(self) -> None:
        """Leave what comes next to the kernel, which holds the worker back, until it is wanted."""
        if not (self.paused or self._complete or self.closed):
            self.paused = True
            self.transport.pause_reading()

    def abort(self, reason: str = "the request was given up", fault: Fault = Fault.LOST) -> None:
        """Close at once; a worker takes that as a cancelled request."""
        self._fail(reason, fault)
        if self.transport is not None:
            self.transport.abort()
        self.closed = True

    def _hand_over(self, take: Take) -> None:
        try:
            wants_more = take(self._taken())
        except Exception as error:  # whoever pumps made it, not what was parsed
            self._raised, wants_more = error, False
        if not wants_more:
            self._take, self._enough = None, True
            self._tell()

    def _taken(self) -> bytes:
        found = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._held = 0
        return found

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _wait(self) -> None:
        """Return when there is news; one at a time may wait."""
        self._read_on()
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _fail(self, reason: str, fault: Fault = Fault.LOST) -> None:
        if self._complete:
            return
        self._failure = self._failure or UpstreamError(reason, fault)
        self._tell()
        if self._head is not None and not self._head.done():
            self._head.set_exception(self._failure)
            self._head.exception()  # nobody may be waiting any more

    def _note_time(self) -> None:
        now = self._clock()
        if not self.pieces:
            self._began_at = now
        elif now - self.heard > self.longest:
            self.longest = now - self.heard
        self.pieces += 1
        self.heard = now

    def _read_on(self) -> None:
        """The client has caught up; only from now on is silence the worker's."""
        if not self.paused:
            return
        now = self._clock()
        self._began_at += now - self.heard
        self.paused, self.heard = False, now
        if not self.closed:
            self.transport.resume_reading()
