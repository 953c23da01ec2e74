"""uvicorn's HTTP protocol, with a bound on request heads, and a short way for completions.

Requests to the paths that are relayed are served from here, without ASGI in between; all others go
to the app as usual.
"""

from collections.abc import Collection
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock_gateway.relay.call import Call, Line, Serve

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request line and its headers; more is an attack or a mistake."""
MAX_UNSENT: Final = 8 * 1024
"""Bytes held for a client that does not read before whoever writes has to wait."""
MAX_IN_KERNEL: Final = 64 * 1024
"""The same in the kernel, which would let megabytes of an answer run ahead of its client."""

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a client.

    Args:
        serve: takes the requests to `paths`.
        paths: POST requests to these are relayed.
        uvicorn: what uvicorn gives to its protocols.
    """

    _in_head = True
    _head_bytes = 0

    def __init__(self, *, serve: Serve, paths: Collection[bytes], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._serve = serve
        self._paths = paths
        self._call: Call | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, MAX_IN_KERNEL)
        self._line = Line(transport, self.flow, self.server_state, self.on_response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        cycles: list[Any] = [self.cycle, *(cycle for cycle, _ in self.pipeline)]
        super().connection_lost(exc)
        for cycle in cycles:
            if isinstance(cycle, Call) and not cycle.response_complete:
                cycle.left()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        url = self.url if self.url.startswith(b"/") else httptools.parse_url(self.url).path or b""
        path = url.partition(b"?")[0]
        posted = self.parser.get_method() == b"POST" and not self.parser.should_upgrade()
        if path in self._paths and posted:
            self._take(path.decode())
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""
        if self._call is not None:
            self._call.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        if self._call is not None:
            self._call.complete()
            self._call = None
        else:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to an unfinished head."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def _take(self, path: str) -> None:
        before: Any = self.cycle
        chunks = self.parser.get_http_version() != "1.0"
        keep_alive = chunks and self.parser.should_keep_alive()
        self._call = Call(
            path,
            self.headers,
            self._line,
            self._serve,
            keep_alive,
            self.expect_100_continue,
            chunks,
        )
        cycle: Any = self._call
        self.cycle = cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
