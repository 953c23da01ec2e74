"""uvicorn's HTTP protocol, fed with requests that are parsed already: the ASGI app answers them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock_gateway.relay.client_connection import Headers


@dataclass(frozen=True)
class Head:
    """The head of a request; uvicorn asks it what it would ask its parser.

    Raises:
        httptools.HttpParserError: the target names nothing here.
    """

    method: bytes
    url: bytes
    version: str
    headers: Headers
    keep_alive: bool

    def __post_init__(self) -> None:
        if not httptools.parse_url(self.url).path:
            raise httptools.HttpParserError("the target has no path")

    def get_method(self) -> bytes:
        """Return the method."""
        return self.method

    def get_http_version(self) -> str:
        """Return the version of HTTP."""
        return self.version

    def should_keep_alive(self) -> bool:
        """Return whether the connection can be used again afterwards."""
        return self.keep_alive

    def should_upgrade(self) -> bool:
        """Return whether another protocol is wanted; here there is none."""
        return False


class Delegate(HttpToolsProtocol):
    """Takes one request after another.

    Args:
        done: called when an answer is whole.
        uvicorn: what uvicorn gives to its protocols.
    """

    def __init__(self, done: Callable[[], None], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._done = done

    def attach(self, transport: Any) -> None:
        """Answer to this client."""
        self.connection_made(transport)
        self.connections.discard(self)  # its owner is there

    def begin(self, head: Head) -> None:
        """A request has come."""
        parser: Any = head
        self.parser = parser
        self.on_message_begin()
        self.on_url(head.url)
        for name, value in head.headers:
            self.on_header(name, value)
        self.on_headers_complete()

    def on_response_complete(self) -> None:
        """Its answer is whole; uvicorn would set a timer now."""
        self.flow.resume_reading()
        self._done()
