"""A TCP proxy that breaks what it is told to break, in the answers that pass through it."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class BrokenAnswers:
    """Forwards connections to a port of this machine, in threads.

    Args:
        port: where connections are forwarded to.
        cut_after: end a connection after so many bytes of answer.
        flip_at: change a bit of this byte of the answer.
        stall_after: forward no more after so many bytes of answer, but keep the connection.
        then: called as soon as a connection has come to that; nobody waits for the rest for long.
    """

    def __init__(
        self,
        port: int,
        *,
        cut_after: int | None = None,
        flip_at: int | None = None,
        stall_after: int | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> None:
        self.stalled = 0
        """Connections that have come to `stall_after`."""
        self._upstream = port
        self._cut_after = cut_after
        self._flip_at = flip_at
        self._stall_after = stall_after
        self._then = then
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._forward, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._upstream)) as server,
        ):
            asking = threading.Thread(target=_copy, args=(client, server))
            asking.start()
            self._answer(server, client)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            asking.join(60)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        while data := bytearray(server.recv(4096)):
            if self._flip_at is not None and passed <= self._flip_at < passed + len(data):
                data[self._flip_at - passed] ^= 1
            ends = [end for end in (self._cut_after, self._stall_after) if end is not None]
            room = min(ends, default=passed + len(data)) - passed
            client.sendall(data[:room])
            passed += len(data)
            if room < len(data):
                if self._stall_after is not None:
                    self._swallow(server)
                return

    def _swallow(self, server: socket.socket) -> None:
        """Forward nothing more, until the answering side ends or the proxy does."""
        self.stalled += 1
        self._then()
        server.settimeout(0.05)
        while not self._closing.is_set():
            try:
                if not server.recv(4096):
                    return
            except TimeoutError:
                continue


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
