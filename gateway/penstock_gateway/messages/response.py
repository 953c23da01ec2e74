"""Turns a chat completion, whole or streamed, into an answer of Anthropic's Messages API. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from penstock_gateway.dialect import event, event_data

Json = dict[str, Any]

_REASONS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
    "function_call": "tool_use", "content_filter": "refusal",
}  # fmt: skip
_ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def message_of(completion: Mapping[str, Any]) -> Json:
    """Return a message for a chat completion that was not streamed."""
    choice = completion["choices"][0]
    own_words = choice["message"]
    content: list[Json] = []
    if own_words.get("content"):
        content.append({"type": "text", "text": own_words["content"]})
    for call in own_words.get("tool_calls") or ():
        function = call["function"]
        own = {"id": call["id"], "name": function["name"], "input": _arguments(function)}
        content.append({"type": "tool_use", **own})
    return {
        **_empty(completion),
        "content": content,
        **_stop(choice),
        "usage": _usage(completion.get("usage")),
    }


def error_of(found: Mapping[str, Any], status: int) -> Json:
    """Return an error for one in OpenAI's shape."""
    error = found.get("error") or {}
    kind = _ERRORS.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.get("message", "")}}


class MessageStream:
    """Of one stream, event by event; comments of the worker are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._block: str | None = None
        """The open block: `text`, or the index of a tool call."""
        self._blocks = 0
        self._stop: Json = {"stop_reason": None, "stop_sequence": None}
        self._used: Json | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of a stream of chunks means."""
        events, self._rest = event_data(self._rest, data)
        return b"".join(event(found) for one in events for found in self._events(one))

    def _events(self, data: bytes) -> Iterator[Json]:
        if data == b"[DONE]":
            yield from self._end_block()
            yield {"type": "message_delta", "delta": self._stop, "usage": _usage(self._used)}
            yield {"type": "message_stop"}
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            yield error_of(chunk, 0)
            return
        if not self._begun:
            self._begun = True
            empty = {**_empty(chunk), "content": [], **self._stop, "usage": _usage(None)}
            yield {"type": "message_start", "message": empty}
        self._used = chunk.get("usage") or self._used
        for choice in chunk["choices"]:
            yield from self._choice(choice)

    def _choice(self, choice: Json) -> Iterator[Json]:
        delta = choice.get("delta") or {}
        if delta.get("content"):
            yield from self._in_block("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": delta["content"]})
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            names = {"id": call.get("id"), "name": function.get("name"), "input": {}}
            yield from self._in_block(str(call["index"]), {"type": "tool_use", **names})
            if function.get("arguments"):
                partial = function["arguments"]
                yield self._delta({"type": "input_json_delta", "partial_json": partial})
        if choice.get("finish_reason"):
            self._stop = _stop(choice)

    def _in_block(self, block: str, begin: Json) -> Iterator[Json]:
        if self._block == block:
            return
        yield from self._end_block()
        self._block = block
        yield {"type": "content_block_start", "index": self._blocks, "content_block": begin}

    def _end_block(self) -> Iterator[Json]:
        if self._block is not None:
            yield {"type": "content_block_stop", "index": self._blocks}
            self._block = None
            self._blocks += 1

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}


def _empty(found: Mapping[str, Any]) -> Json:
    own = {"id": f"msg_{found['id']}", "type": "message", "role": "assistant"}
    return {**own, "model": found["model"]}


def _stop(choice: Mapping[str, Any]) -> Json:
    """vLLM and Penstock tell in `stop_reason` which stop string it was."""
    sequence = choice.get("stop_reason")
    if isinstance(sequence, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    reason = _REASONS.get(choice.get("finish_reason") or "", "end_turn")
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(found: Mapping[str, Any] | None) -> Json:
    """Anthropic counts cached tokens beside the others, OpenAI among them."""
    found = found or {}
    cached = (found.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": found.get("prompt_tokens", 0) - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": found.get("completion_tokens", 0),
    }


def _arguments(function: Mapping[str, Any]) -> Any:
    try:
        return orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:  # cut off by the limit of tokens
        return {}
