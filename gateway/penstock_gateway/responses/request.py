"""Turns a request of OpenAI's Responses API into one for a chat completion. Pure.

Nothing is stored, so what refers to an earlier response is refused, by name; reasoning items of
earlier turns are left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.client_json import Json, invalid, json_list

_SAME = (
    "model", "temperature", "top_p", "stream", "user", "parallel_tool_calls", "service_tier",
)  # fmt: skip
_STORED = ("previous_response_id", "conversation", "background", "prompt")
_TEXTS = ("input_text", "output_text", "text")
_ROLES = ("system", "developer", "user", "assistant")


def chat_of(asked: Mapping[str, Any]) -> Json:
    """Return the body of a chat completion.

    Raises:
        ApiError: chat completions have nothing like a part of the request; `param` names it.
    """
    for name in _STORED:
        if asked.get(name):
            message = f"{name} is not supported: responses are not stored"
            raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, param=name)
    found: Json = {name: asked[name] for name in _SAME if asked.get(name) is not None}
    found["messages"] = [*_instructions(asked), *_messages(asked.get("input"))]
    if asked.get("max_output_tokens") is not None:
        found["max_completion_tokens"] = asked["max_output_tokens"]
    if found.get("stream") is True:
        found["stream_options"] = {"include_usage": True}
    if asked.get("tools"):
        tools = json_list(asked["tools"], "tools")
        found["tools"] = [_tool(tool, n) for n, tool in enumerate(tools)]
        found |= _tool_choice(asked.get("tool_choice"))
    return found | _format(asked.get("text"))


def _instructions(asked: Mapping[str, Any]) -> Iterator[Json]:
    if asked.get("instructions"):
        yield {"role": "system", "content": asked["instructions"]}


def _messages(given: Any) -> Iterator[Json]:
    if isinstance(given, str) and given:
        yield {"role": "user", "content": given}
        return
    if not given or not isinstance(given, list):
        raise invalid("input", "must be a text or a list of items")
    items: list[Any] = given
    calls: list[Json] = []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        kind = _kind(item, where)
        if kind == "function_call":  # several in a row are one message
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        yield from _item(kind, item, where)
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _item(kind: str, item: Json, where: str) -> Iterator[Json]:
    if kind == "reasoning":
        return
    if kind == "function_call_output":
        output = _text(item.get("output"), f"{where}.output")
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": output}
    elif kind == "message" and item.get("role") in _ROLES:
        yield {"role": item["role"], "content": _text(item.get("content"), f"{where}.content")}
    else:
        raise invalid(where, f"of type {kind!r} cannot be read")


def _kind(item: Any, where: str) -> str:
    if not isinstance(item, dict):
        raise invalid(where, "must be an object")
    return str(item.get("type", "message"))


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(json_list(content, where)):
        if _kind(part, f"{where}[{number}]") not in _TEXTS or not isinstance(part.get("text"), str):
            raise invalid(f"{where}[{number}]", "is not text: nothing else is read")
        texts.append(part["text"])
    return "".join(texts)


def _tool(tool: Any, number: int) -> Json:
    where = f"tools[{number}]"
    if _kind(tool, where) != "function":
        raise invalid(f"{where}.type", "must be function: tools of the provider are not there")
    own = {name: tool[name] for name in ("name", "description", "parameters", "strict")
           if tool.get(name) is not None}  # fmt: skip
    return {"type": "function", "function": own}


def _tool_choice(choice: Any) -> Json:
    if not choice:
        return {}
    if isinstance(choice, str):
        return {"tool_choice": choice}
    if _kind(choice, "tool_choice") != "function":
        raise invalid("tool_choice", "must be auto, none, required or a function")
    return {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}}


def _format(text: Any) -> Json:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not wanted:
        return {}
    kind = _kind(wanted, "text.format")
    if kind != "json_schema":
        return {"response_format": {"type": kind}}
    schema = {name: wanted[name] for name in ("name", "schema", "strict") if name in wanted}
    return {"response_format": {"type": kind, "json_schema": schema}}
