"""The client's side of an exchange: one head, the pieces of one answer, and one honest end."""

from typing import Any

import orjson
from starlette.types import Send

from penstock_contract import headers
from penstock_contract.errors import ApiError
from penstock_gateway.relay.request import client_headers
from penstock_gateway.relay.upstream import Response
from penstock_gateway.routing.policy import Choice
from penstock_gateway.tenants.visit import Visit


class Client:
    """Whoever asked.

    Args:
        send: ASGI's.
        request_id: goes into the head.
        visit: is told what passes by, and tells the client about its limits.
        debug_headers: tell those who may know which worker answered, and why it was chosen.
    """

    def __init__(self, send: Send, request_id: str, visit: Visit, *, debug_headers: bool) -> None:
        self.begun = False
        """It has seen a part of the answer."""
        self._send = send
        self._id = request_id
        self._visit = visit
        self._debug_headers = debug_headers
        self._streams = False

    async def begin(self, response: Response, choice: Choice) -> None:
        """Send the head of an answer."""
        self.begun = True
        self._streams = is_stream(response)
        self._visit.answered(response.status)
        own = [(headers.REQUEST_ID, self._id), *self._visit.told_headers]
        if self._debug_headers and self._visit.tenant.debug:
            own += [(headers.WORKER, choice.id), (headers.ROUTE_REASON, choice.reason)]
        found = client_headers(response.headers, own)
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": found}
        )

    async def pass_on(self, data: bytes) -> None:
        """Send a piece of the answer."""
        self._visit.saw(data)
        await self._send(_piece(data))

    async def end(self) -> None:
        """The answer is whole."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, error: ApiError) -> None:
        """End a stream with an error event; whatever it is stays unfinished, an unclean close."""
        if self._streams:
            # Of a stream that is not read, an event may be cut: a blank line ends it.
            await self.pass_on(b"\n\ndata: " + orjson.dumps(error.body()) + b"\n\n")


def is_stream(response: Response) -> bool:
    """Return whether an answer is a stream of events."""
    return response.header(b"content-type").startswith(b"text/event-stream")


def _piece(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}
