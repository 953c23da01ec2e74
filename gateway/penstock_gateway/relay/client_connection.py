"""A client's connection, as whatever writes an answer to it sees it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from penstock_gateway.relay.bodies import Bodies

Headers = list[tuple[bytes, bytes]]


class ServerState(Protocol):
    """uvicorn's state of the server, as far as it matters here."""

    default_headers: Headers
    """Of every answer, with the time."""
    tasks: set[asyncio.Task[None]]
    """What a server that stops waits for."""


class ClientConnection:
    """The connection that requests come on.

    Args:
        transport: to the client.
        state: of the server.
        bodies: of all connections' requests.
        done: called when an answer is whole.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        state: ServerState,
        bodies: Bodies,
        done: Callable[[], None],
    ) -> None:
        self.transport = transport
        self.state = state
        self.bodies = bodies
        self.done = done
        self.paused = False
        """The client is behind: what is written now only takes memory."""
        self._caught_up: asyncio.Future[None] | None = None

    def pause(self) -> None:
        """The client does not keep up."""
        self.paused = True

    def resume(self) -> None:
        """It has read on, or has gone."""
        self.paused = False
        waiter, self._caught_up = self._caught_up, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def drain(self) -> None:
        """Return when the client has read on; one at a time may wait."""
        while self.paused:
            self._caught_up = asyncio.get_running_loop().create_future()
            await self._caught_up
