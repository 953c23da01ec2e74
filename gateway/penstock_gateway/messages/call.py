"""A call to `/v1/messages` as the relay sees it: one to chat completions."""

from typing import Final

import orjson

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.messages.answer import Translation, error_of, message_of
from penstock_gateway.messages.question import chat_of
from penstock_gateway.relay.bounds import check_values
from penstock_gateway.relay.call import Call, Headers

PATH: Final = "/v1/messages"
CHAT: Final = "/v1/chat/completions"


class MessagesCall(Call):
    """Reads and writes through another call.

    Args:
        inner: the client's.
    """

    def __init__(self, inner: Call) -> None:
        super().__init__(
            CHAT, inner.headers, inner.line, inner.serve, inner.keep_alive, inner.expects_continue
        )
        self._inner = inner
        self._stream: Translation | None = None
        self._status = 0
        self._head: Headers = []
        self._held = bytearray()

    async def read(self, most: int) -> bytes:
        """Return the body of the chat completion that is asked for.

        Raises:
            ApiError: it is too large, or cannot be said in one.
        """
        body = await self._inner.read(most)
        check_values(body)
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(ErrorCode.INVALID_JSON, f"the body is not JSON: {error}") from error
        if not isinstance(asked, dict):
            raise ApiError(ErrorCode.INVALID_JSON, "the body is not a JSON object")
        try:
            return orjson.dumps(chat_of(asked))
        except orjson.JSONEncodeError as error:
            message = "the body is nested too deeply"
            raise ApiError(ErrorCode.INVALID_REQUEST, message) from error

    def begin(self, status: int, headers: Headers) -> None:
        """Send the head of a stream; keep any other until its body is there."""
        self.begun = True
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self._status = status
        self._head = [(name, value) for name, value in headers if name != b"content-length"]
        if kind.startswith(b"text/event-stream"):
            self._stream = Translation()
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
            found = orjson.loads(self._held)
            failed = self._status >= ErrorCode.INVALID_REQUEST.status
            body = orjson.dumps(error_of(found, self._status) if failed else message_of(found))
            length = (b"content-length", str(len(body)).encode())
            self._inner.begin(self._status, [*self._head, length])
            self._inner.write(body)
        self._inner.end()
