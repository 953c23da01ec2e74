"""`/v1/messages`: Anthropic's API in terms of chat completions, which workers speak."""

from penstock_gateway.dialect import Dialect
from penstock_gateway.messages.answer import MessageStream, error_of, message_of
from penstock_gateway.messages.question import chat_of

MESSAGES = Dialect(
    path="/v1/messages",
    question=chat_of,
    answer=lambda completion, _: message_of(completion),
    error=error_of,
    stream=lambda _: MessageStream(),
)
