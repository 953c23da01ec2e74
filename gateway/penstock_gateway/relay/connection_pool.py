"""Opens connections to workers, and keeps those that wait for their next request."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

from penstock_contract.metrics import Fault
from penstock_gateway.relay.exhaustion import LOCAL, ExhaustionLog
from penstock_gateway.relay.keepalive import keep_alive
from penstock_gateway.relay.response import UpstreamError
from penstock_gateway.relay.upstream import READ_SIZE, Connection

MAX_IDLE = 128
"""Idle connections kept per worker."""
CONNECT_SECONDS = 1.5
"""For a connection: time for one lost packet."""


class ConnectionPool:
    """Connections to all workers, by base URL."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Connection]] = {}
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._exhaustion = ExhaustionLog()

    def idle(self, url: str) -> Connection | None:
        """Return an open idle connection, newest first (the oldest may be about to time out)."""
        connections = self._idle.get(url, [])
        while connections:
            connection = connections.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self, url: str) -> Connection:
        """Return a new connection.

        Raises:
            UpstreamError: the worker does not accept one.
            StarvedError: this process cannot open one.
        """
        where = urlsplit(url)
        connection = Connection(self._buffer)
        protocol: Any = connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, _ = await loop.create_connection(
                    lambda: protocol, where.hostname or "", where.port or 80
                )
            keep_alive(transport.get_extra_info("socket"))
        except (OSError, TimeoutError) as error:
            if error.errno in LOCAL:
                self._spare()
                raise self._exhaustion.error(error) from error
            reason = f"cannot connect to {url}: {error or 'timed out'}"
            raise UpstreamError(reason, Fault.UNREACHABLE) from error
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection whose answer was read to the end; abort any other."""
        idle = self._idle.setdefault(url, [])
        if connection.reusable and not connection.closed and len(idle) < MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def _spare(self) -> None:
        """Close one connection that nobody uses."""
        for connections in self._idle.values():
            if connections:
                connections.pop(0).abort()
                return

    def keep_only(self, urls: set[str]) -> None:
        """Close the connections to workers that are gone."""
        for url in self._idle.keys() - urls:
            for connection in self._idle.pop(url):
                connection.abort()
