"""A client's request taken at protocol level, and the answer to it.

ASGI and what stands on it cost several times what relaying itself does, so completions do not go
through them: the protocol parses the request, and this writes the answer's bytes. A client that
leaves cancels the task that serves it.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.on_behalf import Ticket
from penstock_gateway.relay.client_connection import ClientConnection, Headers
from penstock_gateway.relay.pipelined import PipelinedRequest

Serve = Callable[["Call"], Awaitable[None]]

MAX_IGNORED: Final = 4 << 20
"""Bytes of a refused body that are read, so that its client reads the refusal."""

_STATUS: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Call(PipelinedRequest):
    """One request and its answer.

    Args:
        path: without the query.
        headers: names in lower case.
        connection: that it came on.
        serve: what becomes of the request.
        keep_alive: the connection can be used again afterwards.
        expects_continue: the client waits with the body until it is told to send it.
        knows_chunks: HTTP/1.0 does not: there the end of the connection is the end of the answer.
    """

    def __init__(
        self,
        path: str,
        headers: Headers,
        connection: ClientConnection,
        serve: Serve,
        *,
        keep_alive: bool,
        expects_continue: bool,
        knows_chunks: bool,
    ) -> None:
        self.path = path
        self.headers = headers
        self.connection = connection
        self.serve = serve
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.knows_chunks = knows_chunks
        self.ended = False
        """The answer is whole."""
        self._begun = False
        self._unsent = b""
        """The head of the answer: it goes with the first piece of the body, in one packet."""
        self._task: asyncio.Task[None] | None = None
        self._gone = False
        self._body = bytearray()
        self._most = sys.maxsize
        self._counted = 0
        """Bytes of the body that count as held, here or by whom it was given to."""
        self._shed: ApiError | None = None
        self._ignored = 0
        self._has_all = False
        self._news: asyncio.Future[None] | None = None
        self._chunked = False

    @property
    def begun(self) -> bool:
        """Whether the head of an answer has gone."""
        return self._begun

    # The protocol's side.

    def start(self) -> None:
        """Serve the request; its body may still come."""
        if not self._gone:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self.connection.state.tasks.add(self._task)

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if self.ended or self._shed or len(self._body) > self._most:
            self._ignored += len(piece)
            if self._ignored > MAX_IGNORED:
                self.connection.transport.close()
            return
        self._body += piece
        self._counted += len(piece)
        self.connection.bodies.grow(self, len(piece))
        if len(self._body) > self._most:
            self._wake()

    def shed(self, error: ApiError) -> None:
        """There is no room for the body."""
        self._shed = error
        self._let_go()
        self._wake()

    def complete(self) -> None:
        """The body is whole."""
        self._has_all = True
        self.connection.bodies.whole(self)
        self._wake()

    def close_after(self) -> None:
        """The connection ends with this answer."""
        self.keep_alive = False

    def left(self) -> None:
        """The client has gone: whatever is done for it ends."""
        self._gone = True
        self._let_go()
        if self._task is not None:
            self._task.cancel()

    # The relay's side.

    def header(self, name: bytes) -> str:
        """Return a header's first value, or nothing."""
        for found, value in self.headers:
            if found == name:
                return value.decode("latin-1")
        return ""

    async def read(self, most: int, ticket: Ticket | None = None) -> bytes:
        """Return the body; it can be had once.

        Args:
            most: bytes that it may have.
            ticket: by which the request was let in, if it was by one.

        Raises:
            ApiError: it is too large, there is no room for it, or the ticket is for another one.
        """
        if self.expects_continue:
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._most = most
        if not (self._has_all or self._shed or len(self._body) > most):
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._shed:
            raise self._shed
        if len(self._body) > most:
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {most} bytes")
        body, self._body = bytes(self._body), bytearray()
        if ticket is not None and not ticket.covers("POST", self.path, body):
            raise ApiError(ErrorCode.INVALID_API_KEY, "The ticket was made for another request.")
        return body

    def begin(self, status: int, headers: Headers) -> None:
        """Send the head of the answer, with what is written next."""
        self._begun = self._chunked = True
        pieces = [_STATUS[status]]
        for name, value in (*self.connection.state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                self._chunked = False
        if self._chunked and not self.knows_chunks:
            self._chunked = self.keep_alive = False
        if self._chunked:
            pieces.append(b"transfer-encoding: chunked\r\n")
        pieces.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._unsent = b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Send a piece of the answer; when `paused`, await `drain` before the next."""
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._unsent:
            head, self._unsent = self._unsent, b""
            data = head + data
        self.connection.transport.write(data)

    @property
    def paused(self) -> bool:
        """Whether the client is behind."""
        return self.connection.paused

    async def drain(self) -> None:
        """Return when the client has read on."""
        await self.connection.drain()

    def end(self) -> None:
        """The answer is whole."""
        if self._chunked or self._unsent:
            last = b"0\r\n\r\n" if self._chunked else b""
            self.connection.transport.write(self._unsent + last)
        self.ended = True
        if not self.keep_alive:
            self.connection.transport.close()
        self.connection.done()

    async def _run(self) -> None:
        try:
            await self.serve(self)
        finally:
            self._let_go()
            if self._task is not None:
                self.connection.state.tasks.discard(self._task)
                self._task = None
            if not self.ended:
                self._break_off()

    def _break_off(self) -> None:
        """Close so that what is not whole does not look whole."""
        if self.knows_chunks:
            self.connection.transport.close()
        else:
            self.connection.transport.abort()

    def _let_go(self) -> None:
        """Nothing of the body is needed any more."""
        if self._counted:
            self.connection.bodies.give_back(self, self._counted)
            self._counted, self._body = 0, bytearray()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
