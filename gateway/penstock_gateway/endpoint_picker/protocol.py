"""Messages of Envoy's external processing, read and written; nothing is decided here."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from penstock_contract.errors import ApiError
from penstock_gateway.endpoint_picker.endpoints import (
    DESTINATION,
    NAMESPACE,
    SERVED,
    SUBSET,
    SUBSET_NAMESPACE,
    endpoints,
)
from penstock_gateway.endpoint_picker.messages import OVERWRITE, PARTS, ProcessingResponse

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
MAX_PIECE: Final = 60_000
"""Bytes of a body in one message: some gateways take no more than 64 KiB."""

NONE, STREAMED, BUFFERED, PARTIAL, FULL_DUPLEX = range(5)
"""How a gateway hands over bodies (ProcessingMode.BodySendMode)."""

Request = Any
"""A ProcessingRequest."""
Response = Any
"""A ProcessingResponse."""


def kind_of(request: Request) -> str:
    """Return which part of a request or an answer a message has; empty: none that is known."""
    return next((part for part in PARTS if request.HasField(part)), "")


def headers_of(found: Any) -> dict[str, str]:
    """Return headers by name; of several with one name, the first."""
    headers: dict[str, str] = {}
    for header in found.headers.headers:
        value = header.raw_value.decode("latin-1") if header.raw_value else header.value
        headers.setdefault(header.key.lower(), value)
    return headers


def body_modes(request: Request) -> tuple[int, int]:
    """Return how bodies of requests and answers come; as the protocol asks for, if not told."""
    if not request.HasField("protocol_config"):
        return FULL_DUPLEX, FULL_DUPLEX
    told = request.protocol_config
    return int(told.request_body_mode), int(told.response_body_mode)


def subset_of(request: Request) -> frozenset[str] | None:
    """Return the endpoints among which the gateway lets choose; None: all of the pool."""
    return endpoints(_metadata(request, SUBSET_NAMESPACE, SUBSET))


def served_by(request: Request) -> str:
    """Return the endpoint that has answered, where the gateway tells."""
    found = _metadata(request, NAMESPACE, SERVED)
    return found.strip() if isinstance(found, str) else ""


def destined(
    kind: str, destination: str, headers: Mapping[str, str], removed: Iterable[str]
) -> Response:
    """Return the answer to a part of a request that says where all of it goes.

    Args:
        kind: `request_headers`, or `request_body` where that comes in one piece.
        destination: `ip:port`, or several, separated by commas.
        headers: to set.
        removed: names of headers to take away.
    """
    response = ProcessingResponse()
    common = getattr(response, kind).response
    common.clear_route_cache = True
    for name, value in {DESTINATION: destination, **headers}.items():
        option = common.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = name, value.encode("latin-1", "replace")
        option.append_action = OVERWRITE
    common.header_mutation.remove_headers.extend(removed)
    response.dynamic_metadata.update({NAMESPACE: {DESTINATION: destination}})
    return response


def with_body(response: Response, body: bytes) -> Response:
    """Return the answer to a body in one piece that replaces it."""
    response.request_body.response.body_mutation.body = body
    return response


def pieces(kind: str, body: bytes, *, ends: bool) -> Iterator[Response]:
    """Yield what passes a body on: a mutation by nothing, as full duplex wants it.

    Args:
        kind: `request_body` or `response_body`.
        body: or a part of one.
        ends: nothing comes after it.
    """
    for start in range(0, max(1, len(body)), MAX_PIECE):
        response = ProcessingResponse()
        piece = getattr(response, kind).response.body_mutation.streamed_response
        piece.body = body[start : start + MAX_PIECE]
        piece.end_of_stream = ends and start + MAX_PIECE >= len(body)
        yield response


def unchanged(kind: str, removed: Iterable[str] = ()) -> Response:
    """Return the answer that lets a part of a request or an answer pass.

    Args:
        kind: of the message.
        removed: names of headers to take away, of a message with headers.
    """
    response = ProcessingResponse()
    part = getattr(response, kind)
    part.SetInParent()
    if removed:
        part.response.header_mutation.remove_headers.extend(removed)
    return response


def refusal(error: ApiError, request_id: str) -> Response:
    """Return an answer in the worker's place, with the error in OpenAI's shape."""
    return instead(error.code.status, orjson.dumps(error.body()), request_id, error.headers())


def instead(
    status: int, body: bytes, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer in the worker's place: JSON."""
    response = ProcessingResponse()
    found = response.immediate_response
    found.status.code = status
    found.body = body
    told = {"content-type": "application/json", "x-request-id": request_id, **(headers or {})}
    for name, value in told.items():
        option = found.headers.set_headers.add()
        option.header.key, option.header.raw_value = name, value.encode()
        option.append_action = OVERWRITE
    return response


def _metadata(request: Request, namespace: str, key: str) -> Any:
    for found in request.metadata_context.filter_metadata:
        if found.key == namespace and key in found.value.fields:
            value = found.value.fields[key]
            if value.WhichOneof("kind") == "list_value":
                return [item.string_value for item in value.list_value.values]
            return value.string_value
    return None
