"""A client's request taken at protocol level, and the answer to it.

ASGI and what stands on it cost several times what relaying itself does, so completions do not go
through them: uvicorn's protocol parses the request, and this writes the answer's bytes. It looks to
that protocol like one of its own cycles, so pipelining, keep-alive and drain are uvicorn's. A
client that leaves cancels the task that serves it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol

from penstock_contract.errors import ApiError, ErrorCode

Headers = list[tuple[bytes, bytes]]
Serve = Callable[["Call"], Awaitable[None]]

MAX_IGNORED: Final = 4 << 20
"""Bytes of a refused body that are read, so that its client reads the refusal."""

_STATUS: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Flow(Protocol):
    """uvicorn's back-pressure on a connection."""

    write_paused: bool

    async def drain(self) -> None:
        """Return when the client has read on."""


class State(Protocol):
    """uvicorn's state of the server."""

    default_headers: Headers


class _Unheard:
    """uvicorn tells its cycles of news by an event; here nobody waits for one."""

    def set(self) -> None:
        """There is news."""


_UNHEARD: Final = _Unheard()


@dataclass(frozen=True)
class Line:
    """The connection that a request came on.

    Args:
        transport: to the client.
        flow: its back-pressure.
        state: knows the headers of every answer, with the time.
        done: called when an answer is whole.
    """

    transport: asyncio.Transport
    flow: Flow
    state: State
    done: Callable[[], None]


@dataclass(eq=False, slots=True)
class Call:
    """One request and its answer."""

    path: str
    """Without the query."""
    headers: Headers
    """Names in lower case."""
    line: Line
    serve: Serve
    """What becomes of the request."""
    keep_alive: bool
    """The connection can be used again afterwards."""
    expects_continue: bool
    """The client waits with the body until it is told to send it."""
    knows_chunks: bool = True
    """HTTP/1.0 does not: there the end of the connection is the end of the answer."""
    begun: bool = False
    """The head of an answer has gone."""
    response_complete: bool = False
    disconnected: bool = False
    message_event: _Unheard = _UNHEARD
    _task: asyncio.Task[Any] | None = None
    _body: bytearray = field(default_factory=bytearray)
    _most: float = float("inf")
    _ignored: int = 0
    _has_all: bool = False
    _news: asyncio.Future[None] | None = None
    _chunked: bool = False

    # The protocol's side.

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if self.response_complete or len(self._body) > self._most:
            self._ignored += len(piece)
            if self._ignored > MAX_IGNORED:
                self.line.transport.close()
            return
        self._body += piece
        if len(self._body) > self._most:
            self._wake()

    def complete(self) -> None:
        """The body is whole."""
        self._has_all = True
        self._wake()

    async def run_asgi(self, _: object) -> None:
        """Serve the request; uvicorn makes this a task."""
        if self.disconnected:
            return
        self._task = asyncio.current_task()
        try:
            await self.serve(self)
        finally:
            self._task = None
            if not self.response_complete:
                self._break_off()

    def left(self) -> None:
        """The client has gone: whatever is done for it ends."""
        self.disconnected = True
        if self._task is not None:
            self._task.cancel()

    # The relay's side.

    def header(self, name: bytes) -> str:
        """Return a header's first value, or nothing."""
        for found, value in self.headers:
            if found == name:
                return value.decode("latin-1")
        return ""

    async def read(self, most: int) -> bytes:
        """Return the body.

        Raises:
            ApiError: it has more than `most` bytes.
        """
        if self.expects_continue:
            self.line.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._most = most
        if not self._has_all and len(self._body) <= most:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if len(self._body) > most:
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {most} bytes")
        return bytes(self._body)

    def begin(self, status: int, headers: Headers) -> None:
        """Send the head of the answer."""
        self.begun = self._chunked = True
        pieces = [_STATUS[status]]
        for name, value in (*self.line.state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._chunked = False
        if self._chunked and not self.knows_chunks:
            self._chunked = self.keep_alive = False
        if self._chunked:
            pieces.append(b"transfer-encoding: chunked\r\n")
        pieces.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self.line.transport.write(b"".join(pieces))

    def write(self, data: bytes) -> None:
        """Send a piece of the answer; when `paused`, await `drain` before the next."""
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.line.transport.write(data)

    @property
    def paused(self) -> bool:
        """Whether the client is behind."""
        return self.line.flow.write_paused

    async def drain(self) -> None:
        """Return when the client has read on."""
        await self.line.flow.drain()

    def end(self) -> None:
        """The answer is whole."""
        if self._chunked:
            self.line.transport.write(b"0\r\n\r\n")
        self.response_complete = True
        if not self.keep_alive:
            self.line.transport.close()
        self.line.done()

    def _break_off(self) -> None:
        """Close so that what is not whole does not look whole."""
        if self.knows_chunks:
            self.line.transport.close()
        else:
            self.line.transport.abort()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
