"""From messages or prompts to token ids."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.conversation import Message
from penstock_worker.server.protocol import CompletionRequest, GenerationRequest
from penstock_worker.server.served import Served
from penstock_worker.text.chat_template import ChatTemplateError


def chat_prompt(
    served: Served,
    messages: list[Message],
    tools: list[dict[str, Any]] | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
    *,
    bounded: bool = False,
) -> list[int]:
    """Return the token ids of a conversation, with the tools that the assistant may call."""
    plain = [_plain(message, index) for index, message in enumerate(messages)]
    try:
        text = served.chat_template.render(plain, tools, variables)
    except ChatTemplateError as error:
        raise ApiError(ErrorCode.INVALID_REQUEST, str(error), param="messages") from error
    if bounded:
        _check_text(served, text, "messages")
    # The template writes its own special tokens.
    return served.tokenizer.encode(text, add_special_tokens=False)


def completion_prompts(served: Served, request: CompletionRequest) -> list[list[int]]:
    """Return the token ids of each prompt of a completion request."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return _encoded(served, request, [prompt])
    if isinstance(prompt[0], int):
        return [_known(served, prompt)]
    if isinstance(prompt[0], str):
        return _encoded(served, request, [str(p) for p in prompt])
    return [_known(served, ids) for ids in prompt]


def truncated(served: Served, request: GenerationRequest, prompt: list[int]) -> list[int]:
    """Return the end of a prompt that `truncate_prompt_tokens` keeps."""
    keep = request.truncate_prompt_tokens
    if keep is None:
        return prompt
    if keep == -1:
        keep = max(1, served.max_model_len - (request.max_tokens or 1))
    return prompt[max(0, len(prompt) - keep) :]


def _encoded(served: Served, request: CompletionRequest, texts: list[str]) -> list[list[int]]:
    if request.truncate_prompt_tokens is None:
        for text in texts:
            _check_text(served, text, "prompt")
    return [served.tokenizer.encode(text, add_special_tokens=True) for text in texts]


def _check_text(served: Served, text: str, param: str) -> None:
    """Refuse what cannot fit however it is tokenised: tokenising is what costs."""
    most = served.max_model_len * served.tokenizer.longest
    if len(text) > most:
        raise ApiError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"This model's maximum context length is {served.max_model_len} tokens, which are at "
            f"most {most} letters; the prompt has {len(text)}. Shorten it.",
            param=param,
        )


def check_tokens(served: Served, tokens: list[int], param: str) -> None:
    """Refuse token ids that the model does not have."""
    for token in tokens:
        if not 0 <= token < served.vocab_size:
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                f"{param}: token {token} does not exist; the vocabulary has {served.vocab_size}",
                param=param,
            )


def _known(served: Served, ids: Any) -> list[int]:
    check_tokens(served, ids, "prompt")
    return list(ids)


def _plain(message: Message, index: int) -> dict[str, Any]:
    """Return a message as templates expect it: content a string, arguments an object."""
    content = message.content
    if isinstance(content, list):
        for place, part in enumerate(content):
            if part.type != "text":
                field = f"messages[{index}].content[{place}].type"
                raise ApiError(
                    ErrorCode.UNSUPPORTED_PARAMETER,
                    f"{field} {part.type!r} is not supported here: send text",
                    param=field,
                )
        content = "".join(part.text or "" for part in content)
    plain = message.model_dump(exclude_none=True)
    plain["content"] = content or ""
    for place, call in enumerate(plain.get("tool_calls", [])):
        field = f"messages[{index}].tool_calls[{place}].function.arguments"
        call["function"]["arguments"] = _arguments(call["function"]["arguments"], field)
    return plain


def _arguments(text: str, field: str) -> dict[str, Any]:
    """Templates write the arguments of a call as JSON themselves."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise ApiError(
            ErrorCode.INVALID_REQUEST, f"{field} is not JSON: {error}", param=field
        ) from error
    if not isinstance(found, dict):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"{field} must be an object", param=field)
    return found
