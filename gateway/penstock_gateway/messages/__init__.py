"""`/v1/messages`: Anthropic's API in terms of chat completions, which workers speak."""

from penstock_gateway.dialect import Dialect
from penstock_gateway.messages.request import chat_of
from penstock_gateway.messages.response import MessageStream, error_of, message_of

MESSAGES = Dialect(
    path="/v1/messages",
    request=chat_of,
    response=lambda completion, _: message_of(completion),
    error=error_of,
    stream=lambda _: MessageStream(),
)
