"""`/v1/responses`: OpenAI's newer API in terms of chat completions; what needs no memory of it."""

from penstock_gateway.dialect import Dialect
from penstock_gateway.responses.answer import ResponseStream, response_of
from penstock_gateway.responses.question import chat_of

RESPONSES = Dialect(
    path="/v1/responses",
    question=chat_of,
    answer=response_of,
    error=lambda error, _: error,
    stream=ResponseStream,
)
