"""Connections between the processes of a gateway: streams over Unix sockets in a private folder.

Each process listens, and is spoken to by every sibling on a connection of its own. Streams rather
than datagrams: the kernel keeps few datagrams, and the end of a stream tells at once that a process
has ended. Nobody ever waits for a sibling: what one that does not keep up would be told is dropped.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from penstock_gateway.siblings.frames import Frames, Message, frame

log = logging.getLogger("penstock.gateway.siblings")

MOST_UNREAD: Final = 4 << 20
"""Bytes that a sibling may be behind before it is told no more."""
AGAIN_SECONDS: Final = 0.1
"""Between two tries to reach a sibling."""


def socket_of(folder: Path, number: int) -> str:
    """Return where a process listens to its siblings."""
    return str(folder / f"{number}.sock")


def free_socket(folder: Path, number: int) -> str:
    """Return the same, with nothing of a process that was there before."""
    path = Path(socket_of(folder, number))
    path.unlink(missing_ok=True)
    return str(path)


class _Framed(asyncio.Protocol):
    """A connection that messages come on."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._frames = Frames()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except ValueError as error:
            log.error("what a sibling process says is not understood: %s", error)
            self._transport.abort()
            return
        for message in messages:
            self.heard(message)

    def heard(self, message: Message) -> None:
        """A message has come."""
        raise NotImplementedError

    def say(self, message: bytes) -> None:
        """Send a message, unless the other side does not keep up, or has just ended."""
        transport = self._transport
        if not transport.is_closing() and transport.get_write_buffer_size() <= MOST_UNREAD:
            transport.write(message)


class Receiver(_Framed):
    """The end of a connection that one sibling speaks on.

    Args:
        heard: takes what a sibling says, by its number; returns the answer if it asks for one.
        gone: is told that it has ended.
    """

    def __init__(
        self,
        heard: "Callable[[int, Message, Receiver], Message | None]",
        gone: "Callable[[int, Receiver], None]",
    ) -> None:
        super().__init__()
        self._heard = heard
        self._gone = gone
        self._sibling = -1

    def heard(self, message: Message) -> None:
        """See `_Framed.heard`."""
        self._sibling = message.get("hello", self._sibling)
        answer = self._heard(self._sibling, message, self)
        if answer is not None:
            self.say(frame(answer))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has ended."""
        self._gone(self._sibling, self)


class Sender(_Framed):
    """The end of a connection to one sibling, which answers on it when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.get_running_loop().create_future()
        """Is done when the sibling has ended."""
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, what: str, patience: float) -> Any:
        """Return what a sibling answers.

        Raises:
            TimeoutError: nothing, within so many seconds or for ever.
        """
        number = next(self._numbers)
        found = self._asked[number] = asyncio.get_running_loop().create_future()
        self.say(frame({"ask": number, "what": what}))
        try:
            async with asyncio.timeout(patience):
                return await found
        finally:
            del self._asked[number]

    def heard(self, message: Message) -> None:
        """See `_Framed.heard`."""
        found = self._asked.get(message["answer"])
        if found is not None and not found.done():
            found.set_result(message["with"])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It has ended."""
        if not self.lost.done():
            self.lost.set_result(None)
        for found in self._asked.values():
            if not found.done():
                found.set_exception(TimeoutError("the process has ended"))


async def reach(path: str) -> Sender:
    """Return a connection to a sibling, as soon as it listens."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, sender = await loop.create_unix_connection(Sender, path)
            return sender
        except OSError:
            await asyncio.sleep(AGAIN_SECONDS)
