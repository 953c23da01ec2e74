"""What a client sends, bounded and made harmless before anything else is done with it."""

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.on_behalf import Ticket
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.request import (
    ParsedRequest,
    check_content_type,
    fingerprint,
    with_field,
)
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.tenants.tenancy import sent_key


def key_of(call: Call) -> str:
    """Return the API key that a request brings, or nothing."""
    return sent_key(call.header(b"authorization") or None, call.header(b"x-api-key") or None)


async def read_body(call: Call, limit: int, ticket: Ticket | None) -> bytes:
    """Return the body of a request.

    Args:
        call: the request.
        limit: bytes; a longer one is refused, one that says so before it is read.
        ticket: that the batch service shows.

    Raises:
        ApiError: it is too long, compressed, of another type, or does not come.
    """
    check_content_type(call.path, call.header(b"content-type").encode())
    if call.header(b"content-encoding") not in ("", "identity"):
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body uncompressed")
    if int(call.header(b"content-length") or 0) > limit:
        message = f"the body has more than {limit} bytes"
        raise ApiError(ErrorCode.REQUEST_TOO_LARGE, message)
    return await call.read(limit, ticket)


def harmless(body: bytes, parsed: ParsedRequest, quarantine: Quarantine, now: float) -> bytes:
    """Return a body without what only the gateway may say.

    Raises:
        ApiError: workers have died of it.
    """
    for name in parsed.reserved:
        body = with_field(body, name, b"null")
    if quarantine and quarantine.holds(fingerprint(body), now):
        message = "Workers died of this request; it is not tried again for ten minutes."
        raise ApiError(ErrorCode.QUARANTINED, message)
    return body
