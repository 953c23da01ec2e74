"""Ends connections of clients that take for ever: to send a head or a body, or to read an answer.

uvicorn bounds idle connections only. One look a second at all of them costs a request no timer of
its own. Waiting for a worker, or between two requests, is nobody's slowness and ends nothing here.
"""

import asyncio
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import orjson

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.protocol import GatewayProtocol
from penstock_gateway.relay.call import Call

EVERY_SECONDS: Final = 1.0
LEAST_RATE: Final = 1024
"""Bytes a second that a body must come with, beyond the time that is given to everyone."""


class Awaited(Enum):
    """What a client has to send next."""

    HEAD = "the head of a request"
    BODY = "the body of a request"
    NOTHING = "nothing"


class PatientProtocol(GatewayProtocol):
    """A connection that knows since when its client has owed something.

    Args:
        patience: seconds.
        most: connections; who comes when there are as many is sent away.
        others: see `GatewayProtocol`.
    """

    def __init__(self, *, patience: float, most: int, **others: Any) -> None:
        super().__init__(**others)
        self._patience = patience
        self._most = most
        self._awaited = Awaited.HEAD
        self._since = self.loop.time()
        self._bytes = 0
        self._unread_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            error = ApiError(
                ErrorCode.NO_CAPACITY, "The gateway has too many connections.", retry_after=1
            )
            self._refuse(error)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; between two requests they begin a head, whatever they are."""
        if self._awaited is Awaited.NOTHING and self._answered:
            self._await(Awaited.HEAD)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._await(Awaited.HEAD)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        super().on_headers_complete()
        self._await(Awaited.BODY)

    def on_body(self, body: bytes) -> None:
        """A piece of its body has come."""
        self._bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is whole."""
        super().on_message_complete()
        self._await(Awaited.NOTHING)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        self._unread_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        self._unread_since = None

    def end_if_overdue(self, now: float) -> None:
        """Close the connection when its client has owed something for too long."""
        if self.transport.is_closing():
            return
        if self._unread_since is not None and now - self._unread_since > self._patience:
            self.transport.abort()
        elif self.flow.read_paused:
            self._since = now  # it may send, but nobody listens
        elif self._awaited is not Awaited.NOTHING and now > self._due:
            message = f"{self._awaited.value} did not come in time"
            self._refuse(ApiError(ErrorCode.REQUEST_TIMEOUT, message))

    @property
    def _due(self) -> float:
        return self._since + self._patience + self._bytes / LEAST_RATE

    @property
    def _answered(self) -> bool:
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    @property
    def _begun(self) -> bool:
        """Whether an answer is under way or sent, and a refusal would not be understood."""
        cycle: Any = self.cycle
        if cycle is None or self._awaited is Awaited.HEAD:
            return False
        return bool(cycle.begun if isinstance(cycle, Call) else cycle.response_started)

    def _await(self, awaited: Awaited) -> None:
        self._awaited, self._since, self._bytes = awaited, self.loop.time(), 0

    def _refuse(self, error: ApiError) -> None:
        if not self._begun:
            body = orjson.dumps(error.body())
            found = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                **error.headers(),
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in found.items())
            head = f"HTTP/1.1 {error.code.status} {error.code.code}\r\n{lines}\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()


async def sweep(connections: Iterable[object]) -> None:
    """Look at all connections now and then, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        for connection in list(connections):
            if isinstance(connection, PatientProtocol):
                connection.end_if_overdue(loop.time())
