"""Turns a request of Anthropic's Messages API into one for a chat completion. Pure.

Text, tools and tool results; images and documents are refused by path, since no worker reads them.
What stands for reasoning of an earlier turn is left out, as that API allows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from penstock_gateway.client_json import Json, invalid, json_list

_SAME = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream", "service_tier")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_LEFT_OUT = ("thinking", "redacted_thinking")


def chat_of(asked: Mapping[str, Any]) -> Json:
    """Return the body of a chat completion.

    Raises:
        ApiError: chat completions have nothing like a part of the request; `param` names it.
    """
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "must be a list of messages")
    found: Json = {name: asked[name] for name in _SAME if name in asked}
    found["messages"] = [*_system(asked.get("system")), *_messages(messages)]
    if found.get("stream") is True:
        found["stream_options"] = {"include_usage": True}
    if asked.get("stop_sequences"):
        found["stop"] = asked["stop_sequences"]
    if isinstance(asked.get("metadata"), dict) and asked["metadata"].get("user_id"):
        found["user"] = asked["metadata"]["user_id"]
    if asked.get("tools"):
        tools = json_list(asked["tools"], "tools")
        found["tools"] = [_tool(tool, n) for n, tool in enumerate(tools)]
        found |= _tool_choice(asked.get("tool_choice"))
    return found


def _system(system: Any) -> Iterator[Json]:
    if isinstance(system, str) and system:
        yield {"role": "system", "content": system}
    elif system:
        yield {"role": "system", "content": _text(json_list(system, "system"), "system")}


def _messages(messages: list[Any]) -> Iterator[Json]:
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise invalid(f"{where}.role", "must be user or assistant")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
            continue
        listed = json_list(content, where)
        blocks = [_block(b, f"{where}.content[{n}]") for n, b in enumerate(listed)]
        blocks = [block for block in blocks if block["type"] not in _LEFT_OUT]
        if message["role"] == "assistant":
            yield _assistant(blocks, f"{where}.content")
        else:
            yield from _user(blocks, f"{where}.content")


def _assistant(blocks: list[Json], where: str) -> Json:
    said = [block for block in blocks if block["type"] != "tool_use"]
    calls = [
        {
            "id": block.get("id"),
            "type": "function",
            "function": {
                "name": block.get("name"),
                "arguments": orjson.dumps(block.get("input", {})).decode(),
            },
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    found: Json = {"role": "assistant", "content": _text(said, where) if said else None}
    return {**found, "tool_calls": calls} if calls else found


def _user(blocks: list[Json], where: str) -> Iterator[Json]:
    """Results of tools are messages of their own, before what the user says."""
    for block in blocks:
        if block["type"] == "tool_result":
            content = block.get("content") or ""
            text = content if isinstance(content, str) else _text(json_list(content, where), where)
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
    said = [block for block in blocks if block["type"] != "tool_result"]
    if said:
        yield {"role": "user", "content": _text(said, where)}


def _text(blocks: list[Any], where: str) -> str:
    texts = []
    for number, found in enumerate(blocks):
        block = _block(found, f"{where}[{number}]")
        if block["type"] != "text" or not isinstance(block.get("text"), str):
            raise invalid(f"{where}[{number}]", f"of type {block['type']!r}: only text is read")
        texts.append(block["text"])
    return "\n\n".join(texts)


def _block(found: Any, where: str) -> Json:
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise invalid(where, "must be an object with a type")
    return found


def _tool(tool: Any, number: int) -> Json:
    where = f"tools[{number}]"
    if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
        raise invalid(f"{where}.type", "must be custom: tools of the provider are not there")
    schema = tool.get("input_schema", {})
    names = {"name": tool.get("name"), "description": tool.get("description") or ""}
    return {"type": "function", "function": {**names, "parameters": schema}}


def _tool_choice(choice: Any) -> Json:
    if not choice:
        return {}
    if not isinstance(choice, dict):
        raise invalid("tool_choice", "must be an object with a type")
    found: Json = {}
    kind = str(choice.get("type"))
    if kind == "tool":
        found["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif kind in _CHOICES:
        found["tool_choice"] = _CHOICES[kind]
    else:
        raise invalid("tool_choice.type", "must be auto, any, tool or none")
    if choice.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    return found
