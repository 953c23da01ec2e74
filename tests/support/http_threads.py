"""HTTP servers of the standard library, each in a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Let a server answer until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietHandler(BaseHTTPRequestHandler):
    """Answers without a word on standard error; connections are kept."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    @property
    def asked(self) -> dict[str, str]:
        """The request's headers, with names in lower case."""
        return {name.lower(): value for name, value in self.headers.items()}


@contextmanager
def serving_with(handler: type[QuietHandler], **shared: object) -> Iterator[int]:
    """Serve on a port of this machine until the block ends; yield the port.

    Args:
        handler: answers.
        shared: attributes of all handlers.
    """
    bound = type("Handler", (handler,), shared)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), bound)) as server:
        yield server.server_port
