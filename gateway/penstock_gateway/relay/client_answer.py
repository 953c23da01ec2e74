"""The client's side of an exchange: one head, the pieces of one answer, and one honest end."""

import orjson

from penstock_contract import headers
from penstock_contract.errors import ApiError
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.request import client_headers
from penstock_gateway.relay.response import Response
from penstock_gateway.routing.policy import Choice
from penstock_gateway.tenants.tenant_request import TenantRequest


class ClientAnswer:
    """What a client is answered, whichever worker it comes from.

    Args:
        call: the request.
        request_id: goes into the head.
        tenant_request: counts what passes by, and tells the client about its limits.
        waited: how long it had to wait for a worker, for people.
        debug_headers: tell those who may know which worker answered, and why it was chosen.
    """

    def __init__(
        self,
        call: Call,
        request_id: str,
        tenant_request: TenantRequest,
        waited: str,
        *,
        debug_headers: bool,
    ) -> None:
        self.begun = False
        """It has seen a part of the answer."""
        self._call = call
        self._id = request_id
        self._tenant_request = tenant_request
        self._waited = waited
        self._debug_headers = debug_headers
        self._streams = False

    def begin(self, response: Response, choice: Choice) -> None:
        """Send the head of an answer."""
        self.begun = True
        self._streams = is_stream(response)
        self._tenant_request.answered(response.status)
        own = [(headers.REQUEST_ID, self._id), *self._tenant_request.told_headers]
        if self._debug_headers and self._tenant_request.tenant.debug:
            reason = f"{choice.reason} {self._waited}".rstrip()
            own += [(headers.WORKER, choice.id), (headers.ROUTE_REASON, reason)]
        found = client_headers(response.headers, own)
        self._call.begin(response.status, found)

    def pass_on(self, data: bytes) -> bool:
        """Send a piece of the answer; return whether the client keeps up."""
        self._tenant_request.saw(data)
        self._call.write(data)
        return not self._call.paused

    async def caught_up(self) -> None:
        """Return when the client has read what it was sent."""
        if self._call.paused:
            await self._call.drain()

    def end(self) -> None:
        """The answer is whole."""
        self._call.end()

    def break_off(self, error: ApiError) -> None:
        """End a stream with an error event; whatever it is stays unfinished, an unclean close."""
        if self._streams:
            # Of a stream that is not read, an event may be cut: a blank line ends it.
            self.pass_on(b"\n\ndata: " + orjson.dumps(error.body()) + b"\n\n")


def is_stream(response: Response) -> bool:
    """Return whether an answer is a stream of events."""
    return response.header(b"content-type").startswith(b"text/event-stream")
