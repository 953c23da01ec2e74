"""A TCP proxy between gateway and worker that fails on cue: user space, so it needs no privileges.

One real worker behind several proxies looks like several workers, each with an accident of its own.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

LAST_CHUNK: Final = b"0\r\n\r\n"
"""Ends a streamed answer."""

Cut = Callable[[bytes], int | None]
"""Takes a request's first bytes; returns after how many bytes of answer to cut, None for never."""


def never(_: bytes) -> None:
    """Cut nothing."""


@dataclass(eq=False)
class FaultProxy:
    """Forwards connections to a worker until told otherwise."""

    target: int
    """Port of the worker."""
    cut: Cut = never
    delay: float = 0.0
    """Seconds by which each piece of an answer comes later."""
    garble: Callable[[bytes], bytes] | None = None
    """What becomes of a piece of an answer."""
    cuts: int = 0
    """Connections cut so far."""
    asked: int = 0
    """Requests (POST) that have come so far."""
    garbled: int = 0
    """Pieces of their answers that were changed so far."""
    port: int = 0
    _silent: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _passages: "set[_Passage]" = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()

    @property
    def url(self) -> str:
        """Where the gateway finds the worker."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> int:
        """Streams under way: asked for, and not at their end."""
        return sum(passage.running for passage in self._passages)

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._passages)

    def reset(self) -> None:
        """Reset every connection."""
        for writer in self._open:
            writer.transport.abort()

    def partition(self, *, silent: bool) -> None:
        """Forward nothing more, in neither direction, and say nothing of it; or go on again.

        What came in between is lost, as with packets, and so are the connections it belongs to.
        """
        if self._silent and not silent:
            self.reset()
        self._silent = silent

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(far_writer)
        passage = _Passage(self, (reader, writer), (far_reader, far_writer))
        self._passages.add(passage)
        for work in (passage.ask(), passage.answer()):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def silent(self) -> bool:
        """Whether nothing goes through."""
        return self._silent

    def closed(self, passage: "_Passage") -> None:
        """A connection has ended on one side: it ends on both."""
        self._passages.discard(passage)
        for writer in (passage.near[1], passage.far[1]):
            writer.transport.abort()
            self._open.discard(writer)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Passage:
    """One connection; one request at a time."""

    def __init__(self, proxy: FaultProxy, near: Ends, far: Ends) -> None:
        self.proxy = proxy
        self.near = near
        self.far = far
        self.left: int | None = None
        self.running = False

    @property
    def size(self) -> int:
        """Bytes forwarded at once; slowly means an event or two."""
        return 512 if self.proxy.delay else 1 << 16

    async def ask(self) -> None:
        """Forward requests."""
        try:
            while data := await self.near[0].read(1 << 16):
                if data.startswith(b"POST "):
                    self.running = True
                    self.proxy.asked += 1
                    self.left = self.proxy.cut(data)
                if self.far[1].is_closing():
                    break
                if not self.proxy.silent:
                    self.far[1].write(data)
        except ConnectionError:
            pass
        self.proxy.closed(self)

    async def answer(self) -> None:
        """Forward answers, as far as they shall come."""
        try:
            while data := await self.far[0].read(self.size):
                if self.proxy.delay:
                    await asyncio.sleep(self.proxy.delay)
                if self.near[1].is_closing():  # an accident came first
                    break
                ends = data.endswith(LAST_CHUNK)
                data = self._garbled(data)
                if self.left is not None and self.left < len(data):
                    self.near[1].write(data[: self.left])
                    await self.near[1].drain()
                    self.proxy.cuts += 1
                    self.near[1].close()
                    self.far[1].transport.abort()
                    return
                self.left = None if self.left is None else self.left - len(data)
                if not self.proxy.silent:
                    self.near[1].write(data)
                    await self.near[1].drain()
                self.running = self.running and not ends
        except ConnectionError:
            pass
        self.proxy.closed(self)

    def _garbled(self, data: bytes) -> bytes:
        found = self.proxy.garble(data) if self.proxy.garble else data
        self.proxy.garbled += self.running and found != data
        return found
