"""An ASGI response that streams server-sent events and ends honestly.

A stream that cannot be finished sends an error event and then ends without its last chunk: the
connection closes uncleanly. SDKs take a clean end for success (docs/streaming.md).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock_contract.errors import ApiError
from penstock_contract.headers import SSE_HEADERS

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


class EventStream(Response):
    """Sends events as they come; the client's disconnect closes their source at once.

    Args:
        events: complete events; an ApiError from it becomes the in-band error event.
        headers: extra response headers.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__()
        self._events = events
        self._own = {**SSE_HEADERS, **headers}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Serve the response (ASGI)."""
        async with aclosing(self._events) as events:
            sending = asyncio.create_task(self._send(events, send))
            leaving = asyncio.create_task(_disconnected(receive))
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            sending.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            if isinstance(results[0], Exception):
                raise results[0]

    async def _send(self, events: AsyncGenerator[bytes, None], send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self._own.items()]
        # What fails before the first event still has a status of its own.
        first = await anext(events)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:
            data = event(error.body())
            await send({"type": "http.response.body", "body": data, "more_body": True})
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_disconnected(request: Request, work: Callable[[], Awaitable[T]]) -> T | None:
    """Return what `work` returns, or None (and cancel it) as soon as the client has gone."""
    working = asyncio.ensure_future(work())
    leaving = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
