"""`/v1/responses`: OpenAI's newer API in terms of chat completions; what needs no memory of it."""

from penstock_gateway.dialect import Dialect
from penstock_gateway.responses.request import chat_of
from penstock_gateway.responses.response import ResponseStream, response_of

RESPONSES = Dialect(
    path="/v1/responses",
    request=chat_of,
    response=response_of,
    error=lambda error, _: error,
    stream=ResponseStream,
)
