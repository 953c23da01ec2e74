"""Turns a chat completion, whole or streamed, into an answer of OpenAI's Responses API. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from penstock_gateway.dialect import event, event_data

Json = dict[str, Any]

_ECHOED: Json = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
    "top_p": None, "user": None,
}  # fmt: skip


def response_of(completion: Mapping[str, Any], asked: Mapping[str, Any]) -> Json:
    """Return a response for a chat completion that was not streamed."""
    choice = completion["choices"][0]
    words, own = choice["message"], completion["id"]
    output: list[Json] = []
    if words.get("content"):
        output.append(_message(own, words["content"], "completed"))
    for number, call in enumerate(words.get("tool_calls") or ()):
        names = {"call_id": call["id"], "name": call["function"]["name"]}
        output.append(_call(own, number, names, call["function"]["arguments"], "completed"))
    state = _end(choice.get("finish_reason"))
    return {
        **_empty(completion, asked),
        **state,
        "output": output,
        "usage": _usage(completion.get("usage")),
    }


class ResponseStream:
    """Of one stream, event by event; comments of the worker are left out.

    Args:
        asked: the request that it answers.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._asked = asked
        self._rest = b""
        self._number = 0
        self._response: Json = {}
        self._open: Json | None = None
        """The output item that is being written."""
        self._index: int | None = None
        """Of the tool call that it is; None for a message."""
        self._finish: str | None = None
        self._used: Json | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of a stream of chunks means."""
        events, self._rest = event_data(self._rest, data)
        return b"".join(event(self._numbered(e)) for one in events for e in self._events(one))

    def _numbered(self, found: Json) -> Json:
        self._number += 1
        return {**found, "sequence_number": self._number - 1}

    def _events(self, data: bytes) -> Iterator[Json]:
        if data == b"[DONE]":
            yield from self._close()
            self._response |= {**_end(self._finish), "usage": _usage(self._used)}
            yield {"type": f"response.{self._response['status']}", "response": self._response}
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            error = chunk["error"]
            names = {name: error.get(name) for name in ("code", "message", "param")}
            yield {"type": "error", **names}
            return
        if not self._response:
            self._response = {**_empty(chunk, self._asked), "output": []}
            for kind in ("created", "in_progress"):
                yield {"type": f"response.{kind}", "response": self._response}
        self._used = chunk.get("usage") or self._used
        for choice in chunk["choices"]:
            self._finish = choice.get("finish_reason") or self._finish
            yield from self._delta(choice.get("delta") or {})

    def _delta(self, delta: Json) -> Iterator[Json]:
        if delta.get("content"):
            if self._open is None or self._index is not None:
                yield from self._close()
                yield from self._open_item(_message(self._response["id"], None, "in_progress"))
                yield {"type": "response.content_part.added", **self._part, "part": _part("")}
            yield from self._grow("text", delta["content"])
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            if self._open is None or self._index != call["index"]:
                yield from self._close()
                self._index = call["index"]
                names = {"call_id": call.get("id"), "name": function.get("name")}
                own = self._response["id"]
                yield from self._open_item(_call(own, call["index"], names, "", "in_progress"))
            if function.get("arguments"):
                yield from self._grow("arguments", function["arguments"])

    def _open_item(self, item: Json) -> Iterator[Json]:
        self._open, self._text = item, ""
        yield {"type": "response.output_item.added", **self._place, "item": {**item}}

    def _grow(self, what: str, delta: str) -> Iterator[Json]:
        self._text += delta
        if what == "text":
            named = {**self._part, "logprobs": []}
            yield {"type": "response.output_text.delta", **named, "delta": delta}
        else:
            kind = "response.function_call_arguments.delta"
            yield {"type": kind, **self._named, "delta": delta}

    def _close(self) -> Iterator[Json]:
        """End the item that is being written."""
        if self._open is None:
            return
        item = {**self._open, "status": "completed"}
        if self._index is None:
            text = self._text
            named = {**self._part, "logprobs": []}
            yield {"type": "response.output_text.done", **named, "text": text}
            yield {"type": "response.content_part.done", **self._part, "part": _part(text)}
            item["content"] = [_part(text)]
        else:
            kind = "response.function_call_arguments.done"
            own = {"arguments": self._text, "name": item["name"]}
            yield {"type": kind, **self._named, **own}
            item["arguments"] = self._text
        yield {"type": "response.output_item.done", **self._place, "item": item}
        self._response["output"] = [*self._response["output"], item]
        self._open = self._index = None

    @property
    def _place(self) -> Json:
        return {"output_index": len(self._response["output"])}

    @property
    def _named(self) -> Json:
        return {**self._place, "item_id": (self._open or {})["id"]}

    @property
    def _part(self) -> Json:
        return {**self._named, "content_index": 0}


def _empty(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Json:
    echoed = {name: _or(asked.get(name), default) for name, default in _ECHOED.items()}
    return {
        "id": f"resp_{found['id']}",
        "object": "response",
        "created_at": found.get("created", 0),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": found["model"],
        "store": False,
        "usage": None,
        **echoed,
    }


def _or(found: Any, default: Any) -> Any:
    return default if found is None else found


def _message(own: str, text: str | None, status: str) -> Json:
    content = [] if text is None else [_part(text)]
    head = {"type": "message", "id": f"msg_{own}", "role": "assistant"}
    return {**head, "status": status, "content": content}


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(own: str, number: int, names: Json, arguments: str, status: str) -> Json:
    head = {"type": "function_call", "id": f"fc_{own}_{number}", **names}
    return {**head, "arguments": arguments, "status": status}


def _end(finish: str | None) -> Json:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    if finish in reasons:
        return {"status": "incomplete", "incomplete_details": {"reason": reasons[finish]}}
    return {"status": "completed"}


def _usage(found: Mapping[str, Any] | None) -> Json:
    found = found or {}
    cached = (found.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt, answer = found.get("prompt_tokens", 0), found.get("completion_tokens", 0)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + answer,
    }
