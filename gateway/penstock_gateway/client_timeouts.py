"""Ends connections of slow clients: to send a head or a body, or to read an answer.

One look a second at all of them costs a request no timer of its own. Waiting for a worker is
nobody's slowness and ends nothing here.
"""

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, Protocol

EVERY_SECONDS: Final = 1.0
LEAST_RATE: Final = 1024
"""Bytes a second that a body must come with, beyond the time that is given to everyone."""
KEEP_ALIVE: Final = 120.0
"""Seconds between two requests on a connection."""

HEAD: Final = "the head of a request"
BODY: Final = "the body of a request"
NOTHING: Final = ""


class Verdict(Enum):
    """What becomes of a connection."""

    GOES_ON = "goes on"
    LATE = "late"
    """Its client owes a request, or the rest of one."""
    UNREAD = "unread"
    """Its client does not read."""
    IDLE = "idle"
    """Nobody uses it."""


class ClientTimeouts:
    """Knows since when a client has owed something. Times are the event loop's seconds.

    Args:
        seconds: that it may take.
        now: when it came.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self.owed = HEAD
        """What the client has to send next."""
        self._seconds = seconds
        self._now = now
        self._since = now
        self._bytes = 0
        self._unread_since = 0.0
        self._resting = False

    def heard(self, now: float) -> None:
        """Bytes have come; between two requests they begin a head, whatever they are."""
        self._now = now
        if self._resting:
            self.begins()

    def begins(self) -> None:
        """A request begins."""
        self._resting = False
        self._owe(HEAD)

    def owes_body(self) -> None:
        """Its head is whole."""
        self._owe(BODY)

    def got(self, size: int) -> None:
        """So many bytes of its body have come."""
        self._bytes += size

    def owes_nothing(self) -> None:
        """It is whole."""
        self._owe(NOTHING)

    def rests(self, now: float) -> None:
        """An answer is whole; the next request may come when it likes."""
        self._since, self._resting = now, self.owed is NOTHING

    def unread(self, now: float) -> None:
        """The client does not keep up."""
        self._unread_since = now

    def read(self) -> None:
        """It has read on."""
        self._unread_since = 0.0

    def judge(self, now: float, *, listens: bool, idle: bool) -> Verdict:
        """Return what becomes of the connection.

        Args:
            now: the present.
            listens: the gateway reads what the client sends.
            idle: no request is being answered.
        """
        if self._unread_since and now - self._unread_since > self._seconds:
            return Verdict.UNREAD
        if not listens:
            self._since = now
        elif self.owed and now > self._since + self._seconds + self._bytes / LEAST_RATE:
            return Verdict.LATE
        elif idle and self._resting and now > self._since + KEEP_ALIVE:
            return Verdict.IDLE
        return Verdict.GOES_ON

    def _owe(self, what: str) -> None:
        self.owed, self._since, self._bytes = what, self._now, 0


class Connection(Protocol):
    """What is looked at."""

    def end_if_overdue(self, now: float) -> None:
        """Close the connection when its client has owed something for too long."""


async def sweep(connections: Callable[[], Iterable[Connection]]) -> None:
    """Look at all connections now and then, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        for connection in list(connections()):
            connection.end_if_overdue(loop.time())
