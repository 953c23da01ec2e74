"""Other APIs, translated to chat completions and back: requests, answers, errors and streams.

The relay sees a call to chat completions, so limits, routing, retries and resumed streams are the
same for all.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.on_behalf import Ticket
from penstock_gateway.client_json import Json, json_object
from penstock_gateway.relay.bounds import check_values
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.client_connection import Headers

CHAT: Final = "/v1/chat/completions"


class Translation(Protocol):
    """Translates one stream, piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of a stream of chunks means."""


@dataclass(frozen=True)
class Dialect:
    """How an API is translated to chat completions and back. All functions are pure."""

    path: str
    request: Callable[[Json], Json]
    """Translates a request; ApiError when chat completions have nothing like it."""
    response: Callable[[Json, Json], Json]
    """Translates a completion, given the request that it answers."""
    error: Callable[[Json, int], Json]
    """Translates an error in OpenAI's shape, given the HTTP status."""
    stream: Callable[[Json], Translation]
    """Begins a stream, given the request that it answers."""


class TranslatedCall(Call):
    """Reads and writes through another call.

    Args:
        inner: the client's.
        dialect: that it speaks.
    """

    def __init__(self, inner: Call, dialect: Dialect) -> None:
        super().__init__(
            CHAT,
            inner.headers,
            inner.connection,
            inner.serve,
            keep_alive=inner.keep_alive,
            expects_continue=inner.expects_continue,
            knows_chunks=inner.knows_chunks,
        )
        self._inner = inner
        self._dialect = dialect
        self._asked: Json = {}
        self._stream: Translation | None = None
        self._status = 0
        self._head: Headers = []
        self._held = bytearray()

    async def read(self, most: int, ticket: Ticket | None = None) -> bytes:
        """Return the body of the chat completion that is asked for.

        Raises:
            ApiError: it is refused by `Call.read`, or cannot be translated.
        """
        body = await self._inner.read(most, ticket)
        check_values(body)
        self._asked = json_object(body)
        try:
            return orjson.dumps(self._dialect.request(self._asked))
        except orjson.JSONEncodeError as error:
            message = "the body is nested too deeply"
            raise ApiError(ErrorCode.INVALID_REQUEST, message) from error

    def begin(self, status: int, headers: Headers) -> None:
        """Send the head of a stream; keep any other until its body is there."""
        self._begun = True
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self._status = status
        self._head = [(name, value) for name, value in headers if name != b"content-length"]
        if kind.startswith(b"text/event-stream"):
            self._stream = self._dialect.stream(self._asked)
            self._inner.begin(status, self._head)

    def write(self, data: bytes) -> None:
        """Send what a piece of the answer means."""
        if self._stream is None:
            self._held += data
        elif found := self._stream.feed(data):
            self._inner.write(found)

    def end(self) -> None:
        """The answer is whole."""
        if self._stream is None:
            body = orjson.dumps(self._translated())
            length = (b"content-length", str(len(body)).encode())
            self._inner.begin(self._status, [*self._head, length])
            self._inner.write(body)
        self._inner.end()

    def _translated(self) -> Json:
        if self._status >= ErrorCode.INVALID_REQUEST.status:
            return self._dialect.error(_error_in(self._held), self._status)
        return self._dialect.response(orjson.loads(self._held), self._asked)


def _error_in(body: bytearray) -> Json:
    """Return an error in OpenAI's shape, whatever a worker, or what is before it, has said."""
    with suppress(ApiError):
        found = json_object(body)
        if isinstance(found.get("error"), dict):
            return found
    message = "The request was refused by its worker, which did not say why."
    return ApiError(ErrorCode.UPSTREAM_FAILED, message).body()


def event_data(rest: bytes, data: bytes) -> tuple[list[bytes], bytes]:
    """Return the data of the whole events in a stream, and what is left; comments are left out."""
    *events, left = (rest + data).split(b"\n\n")
    lines = [line for event in events for line in event.split(b"\n")]
    return [line[6:] for line in lines if line.startswith(b"data: ")], left


def event(found: Mapping[str, Any]) -> bytes:
    """Return a server-sent event that is named by its type."""
    return b"event: %b\ndata: %b\n\n" % (str(found["type"]).encode(), orjson.dumps(found))
