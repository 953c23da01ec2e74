"""Clients that leave: whatever is done for them ends at once."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def unless(leaving: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns.

    Raises:
        ClientLeft: the client left first; the work is cancelled.
    """
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        working.cancel()


async def disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    with suppress(ClientDisconnect):
        while (await receive())["type"] != "http.disconnect":
            pass
