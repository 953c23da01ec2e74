"""The external processor: one gRPC stream for each request, in the order that Envoy speaks.

Bodies come in full duplex, as the protocol asks for: the answer to the request's head waits until
the body is whole and a worker is chosen. Gateways that buffer bodies are answered part by part.
"""

import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final
from urllib.parse import unquote

import grpc
import orjson

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway import model_list
from penstock_gateway.endpoint_picker import protocol
from penstock_gateway.endpoint_picker.exchange import Exchange
from penstock_gateway.endpoint_picker.messages import ProcessingRequest, ProcessingResponse
from penstock_gateway.endpoint_picker.picker import Picker
from penstock_gateway.endpoint_picker.protocol import BUFFERED, FULL_DUPLEX, Request, Response
from penstock_gateway.tenants.tenant_request import model_not_found

log = logging.getLogger("penstock.picker")

_BUG: Final = ApiError(ErrorCode.INTERNAL_ERROR, "the endpoint picker failed on this request")


def handler(picker: Picker) -> Any:
    """Return what a gRPC server serves."""

    async def process(_: AsyncIterator[Request], context: Any) -> None:
        conversation = Conversation(picker)
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                async for response in conversation.answers(request):
                    await context.write(response)
                if conversation.over:
                    return
            conversation.ended()
        finally:
            conversation.close()

    method = grpc.stream_stream_rpc_method_handler(
        process,
        request_deserializer=ProcessingRequest.FromString,
        response_serializer=ProcessingResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(protocol.SERVICE, {"Process": method})


class Conversation:
    """One request and its answer, told part by part.

    Args:
        picker: what all of them share.
    """

    def __init__(self, picker: Picker) -> None:
        self.over = False
        """The client got an answer from here."""
        self._picker = picker
        self._exchange: Exchange | None = None
        self._request_mode = self._answer_mode = FULL_DUPLEX

    async def answers(self, request: Request) -> AsyncIterator[Response]:
        """Yield what is said to a message, if anything is."""
        kind = protocol.kind_of(request)
        if not kind:
            return
        try:
            if kind == "request_headers":
                self._begin(request)
            if kind.startswith("request_"):
                async for response in self._of_request(kind, getattr(request, kind)):
                    yield response
            else:
                for response in self._of_answer(kind, request):
                    yield response
        except ApiError as error:
            yield self._refuse(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]  # its text may quote a prompt
            log.error("%s in %s, line %s", type(error).__name__, where.filename, where.lineno)
            yield self._refuse(_BUG)

    def ended(self) -> None:
        """The gateway has ended the conversation in good order."""
        given = self._exchange.given if self._exchange else None
        if given is not None and self._answer_mode == protocol.NONE:
            given.unread()

    def close(self) -> None:
        """Give back what is still taken for the request."""
        if self._exchange is not None:
            self._exchange.close()

    def _begin(self, request: Request) -> None:
        self.close()  # a gateway has one request for each conversation; more must not leak
        self._request_mode, self._answer_mode = protocol.body_modes(request)
        found = protocol.headers_of(request.request_headers)
        self._exchange = Exchange(self._picker, found, protocol.subset_of(request))

    async def _of_request(self, kind: str, part: Any) -> AsyncIterator[Response]:
        exchange = self._exchange
        if exchange is None:
            yield protocol.unchanged(kind)
            return
        if kind == "request_headers":
            if exchange.asks_for_models:
                yield self._models(exchange)
                return
            exchange.check_head()
            if part.end_of_stream:
                raise ApiError(ErrorCode.INVALID_JSON, "the body is not JSON: it is empty")
            if self._request_mode not in (BUFFERED, FULL_DUPLEX):
                raise ApiError(ErrorCode.INTERNAL_ERROR, _WRONG_MODE)
            if self._request_mode == BUFFERED:
                yield protocol.unchanged(kind)
            return
        last = kind == "request_trailers"
        if not last:
            exchange.feed(part.body)
            last = part.end_of_stream or self._request_mode == BUFFERED  # trailers may come
        if not last:
            return
        if exchange.given is None:
            picked = await exchange.pick()
            told = (picked.destination, picked.headers, picked.removed)
            if self._request_mode == BUFFERED:
                yield protocol.with_body(protocol.destined("request_body", *told), picked.body)
                return
            yield protocol.destined("request_headers", *told)
            ends = kind == "request_body"
            for piece in protocol.pieces("request_body", picked.body, ends=ends):
                yield piece
        if kind == "request_trailers":
            yield protocol.unchanged(kind)

    def _of_answer(self, kind: str, request: Request) -> Iterator[Response]:
        given = self._exchange.given if self._exchange else None
        part = getattr(request, kind)
        if kind == "response_headers":
            found = protocol.headers_of(part)
            if given is not None:
                status = found.get(":status", "")
                code = int(status) if status.isdecimal() else 0
                given.begins(code, found, protocol.served_by(request))
                if part.end_of_stream:
                    given.goes_on(b"", ends=True)
            inside = [name for name in found if name.startswith(headers.INTERNAL_PREFIX)]
            yield protocol.unchanged(kind, inside)
        elif kind == "response_body":
            if given is not None:
                given.goes_on(part.body, ends=part.end_of_stream)
            if self._answer_mode == FULL_DUPLEX:
                yield from protocol.pieces(kind, part.body, ends=part.end_of_stream)
            else:
                yield protocol.unchanged(kind)
        else:
            if given is not None:
                given.goes_on(b"", ends=True)
            yield protocol.unchanged(kind)

    def _models(self, exchange: Exchange) -> Response:
        self.over = True
        served = self._picker.models
        name = unquote(exchange.path.removeprefix(model_list.PATH).removeprefix("/"))
        if name and name not in served:
            raise model_not_found(name)
        found = model_list.card(name, served[name]) if name else model_list.listed(served)
        return protocol.instead(200, orjson.dumps(found), exchange.request_id)

    def _refuse(self, error: ApiError) -> Response:
        """Return an error in the place of an answer; nothing comes after it."""
        self.over = True
        request_id = headers.request_id(None)
        if self._exchange is not None:
            request_id = self._exchange.request_id
            self._exchange.refused(error)
        return protocol.refusal(error, request_id)


_WRONG_MODE: Final = (
    "The gateway does not hand over request bodies as the Endpoint Picker Protocol asks for: its "
    "external processor needs request_body_mode FULL_DUPLEX_STREAMED (or BUFFERED)."
)
