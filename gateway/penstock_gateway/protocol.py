"""One connection of a client: requests are parsed once, then answered here or by the ASGI app.

Requests to the paths that are relayed become a `Call`, without ASGI in between; all others go to
uvicorn's own protocol, which is made when the first of them comes. The rest of what uvicorn's
server wants of a connection, keep-alive and a graceful end, is the same for both.
"""

from collections import deque
from collections.abc import Callable, Collection
from socket import IPPROTO_TCP, SO_SNDBUF, SOL_SOCKET, TCP_NOTSENT_LOWAT
from typing import Any, Final

import httptools
import orjson

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.client_timeouts import ClientTimeouts, Verdict
from penstock_gateway.delegate import Delegate, Head
from penstock_gateway.delegated import Delegated
from penstock_gateway.relay.bodies import Bodies
from penstock_gateway.relay.call import Call, Serve
from penstock_gateway.relay.client_connection import ClientConnection, Headers
from penstock_gateway.relay.pipelined import PipelinedRequest

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request line and its headers; more is an attack or a mistake."""
MAX_IN_KERNEL: Final = 64 * 1024
"""Bytes that the kernel takes; it would let megabytes of an answer run ahead of its client."""
MAX_UNSENT: Final = 16 * 1024
"""Bytes of these that a client has no room for yet."""

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class ClientProtocol:
    """A connection; to asyncio a protocol, to uvicorn's server one of its own.

    Args:
        serve: takes the requests to `paths`.
        paths: POST requests to these are relayed.
        client_timeout: seconds that a client may take for what it owes.
        most: connections; who comes when there are as many is sent away.
        bodies: counts what is held of them.
        state: of uvicorn's server.
        loop: that this runs in.
        delegate: makes what takes all other requests.
    """

    def __init__(
        self,
        *,
        serve: Serve,
        paths: Collection[bytes],
        client_timeout: float,
        most: int,
        bodies: Bodies,
        state: Any,
        loop: Any,
        delegate: Callable[[Callable[[], None]], Delegate],
    ) -> None:
        self._serve = serve
        self._paths = paths
        self._most = most
        self._bodies = bodies
        self._state = state
        self._loop = loop
        self._make_delegate = delegate
        self._delegate: Delegate | None = None
        self._timeouts = ClientTimeouts(client_timeout, loop.time())
        self._parser: Any = httptools.HttpRequestParser(self)
        self._connection: ClientConnection
        self._current: PipelinedRequest | None = None
        """The request that is being answered."""
        self._arriving: PipelinedRequest | None = None
        """The request whose body is coming."""
        self._waiting: deque[PipelinedRequest] = deque()
        """Pipelined ones."""
        self._url = b""
        self._headers: Headers = []
        self._framing = 0
        """Bytes of a head, of trailers, or of what is around chunks, since the last of a body."""
        self._in_head = True
        self._got_body = False
        """Since the last look."""
        self._expects_continue = False
        self._upgraded = False

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        transport.set_write_buffer_limits(high=0)  # who writes waits when the kernel is full
        connection = transport.get_extra_info("socket")
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, MAX_IN_KERNEL)
        connection.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, MAX_UNSENT)
        self._connection = ClientConnection(transport, self._state, self._bodies, self._answered)
        self._state.connections.add(self)
        if len(self._state.connections) > self._most:
            message = "The gateway has too many connections."
            self._refuse(ApiError(ErrorCode.NO_CAPACITY, message, retry_after=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._state.connections.discard(self)
        self._connection.resume()
        if self._delegate is not None:
            self._delegate.connection_lost(exc)
        for request in (self._current, *self._waiting):
            if request is not None:
                request.left()
        self._waiting.clear()
        # What refers to each other would stay until garbage is collected.
        self._parser = self._current = self._arriving = None
        self._connection.done = _nothing

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to no body."""
        if self._upgraded:
            return
        self._timeouts.heard(self._loop.time())
        self._got_body = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # what follows would be another protocol's: nobody reads it
        except httptools.HttpParserError:
            self._refuse(ApiError(ErrorCode.INVALID_REQUEST, "what was sent is not HTTP/1.1"))
            return
        if self._got_body:
            self._framing = 0
        elif self._in_head or self._arriving is not None:
            self._framing += len(data)
            if self._framing > MAX_HEAD and not self._connection.transport.is_closing():
                self._end_with(_TOO_LARGE)

    def eof_received(self) -> None:
        """Nothing more will come; asyncio closes the connection."""

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._connection.pause()
        self._timeouts.unread(self._loop.time())
        if self._delegate is not None:
            self._delegate.pause_writing()

    def resume_writing(self) -> None:
        """It has read on."""
        self._connection.resume()
        self._timeouts.read()
        if self._delegate is not None:
            self._delegate.resume_writing()

    # httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url, self._headers = b"", []
        self._in_head, self._framing, self._expects_continue = True, 0, False
        self._timeouts.begins()

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers; trailers are nobody's."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        self._timeouts.owes_body()
        self._upgraded = self._parser.should_upgrade()
        self._arriving = request = self._parsed()
        if self._current is None:
            self._current = request
            request.start()
        else:
            self._connection.transport.pause_reading()
            self._waiting.append(request)

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""
        self._got_body = True
        self._timeouts.got(len(body))
        if self._arriving is not None:
            self._arriving.feed(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        self._timeouts.owes_nothing()
        if self._arriving is not None:
            self._arriving.complete()
            self._arriving = None

    # uvicorn's server, and the sweep

    def shutdown(self) -> None:
        """Finish the answer that is under way, if there is one, and close."""
        if self._current is None:
            self._connection.transport.close()
        else:
            self._current.close_after()

    def end_if_overdue(self, now: float) -> None:
        """Close the connection when its client has owed something for too long."""
        if self._connection.transport.is_closing():
            return
        listens = self._connection.transport.is_reading()
        match self._timeouts.judge(now, listens=listens, idle=self._current is None):
            case Verdict.UNREAD:
                self._connection.transport.abort()
            case Verdict.IDLE:
                self._connection.transport.close()
            case Verdict.LATE:
                message = f"{self._timeouts.owed} did not come in time"
                self._refuse(ApiError(ErrorCode.REQUEST_TIMEOUT, message))

    def _parsed(self) -> PipelinedRequest:
        """Return the request whose head has come."""
        parser, url = self._parser, self._url
        chunks = parser.get_http_version() != "1.0"
        keep_alive = chunks and not self._upgraded and parser.should_keep_alive()
        if parser.get_method() == b"POST" and not self._upgraded:
            # A target that cannot be parsed is the app's to refuse.
            path = (url if url.startswith(b"/") else _path(url)).partition(b"?")[0]
            if path in self._paths:
                return Call(
                    path.decode(),
                    self._headers,
                    self._connection,
                    self._serve,
                    keep_alive=keep_alive,
                    expects_continue=self._expects_continue and chunks,
                    knows_chunks=chunks,
                )
        if self._delegate is None:
            self._delegate = self._make_delegate(self._answered)
            self._delegate.attach(self._connection.transport)
        head = Head(parser.get_method(), url, parser.get_http_version(), self._headers, keep_alive)
        return Delegated(self._delegate, head)

    def _answered(self) -> None:
        """An answer is whole; the next request may have its turn."""
        self._current = None
        self._state.total_requests += 1
        if self._connection.transport.is_closing():
            return
        self._timeouts.rests(self._loop.time())
        if self._waiting:
            self._current = self._waiting.popleft()
            self._current.start()
        if not self._waiting:
            self._connection.transport.resume_reading()

    def _refuse(self, error: ApiError) -> None:
        """Say why as other refusals are said."""
        body = orjson.dumps(error.body())
        found = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **error.headers(),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in found.items())
        head = f"HTTP/1.1 {error.code.status} {error.code.code}\r\n{lines}\r\n"
        self._end_with(head.encode() + body)

    def _end_with(self, refusal: bytes) -> None:
        """Say why, unless that could be taken for a part of an answer, and close."""
        if self._current is None or not (self._current.begun or self._waiting):
            self._connection.transport.write(refusal)
        self._connection.transport.close()


def _nothing() -> None:
    """Nobody waits for an answer to a client that has gone."""


def _path(url: bytes) -> bytes:
    """Return the path of an absolute target."""
    try:
        return httptools.parse_url(url).path or b""
    except httptools.HttpParserInvalidURLError:
        return b""
