"""Asks a worker for its health, on a connection of its own: those in use may be what is broken."""

import asyncio
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from penstock_contract import headers
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.response import UpstreamError

_EPOCH: Final = headers.EPOCH.encode()


class Health(NamedTuple):
    """What a worker says of itself."""

    well: bool
    epoch: bytes = b""
    """Random per start of its engine, where it says it."""


async def ask(pool: ConnectionPool, url: str, within: float) -> Health:
    """Return a worker's health; one that does not answer in so many seconds is not well.

    Raises:
        StarvedError: the gateway cannot ask anybody.
    """
    request = f"GET /health HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n\r\n".encode()
    try:
        async with asyncio.timeout(within):
            connection = await pool.connect(url)
            try:
                answer = await connection.send(request)
                return Health(answer.status == 200, answer.header(_EPOCH))
            finally:
                connection.abort()
    except (TimeoutError, UpstreamError):
        return Health(well=False)
