"""How models write the calls of tools, told from their chat templates.

A template that describes calls to the model shows what they look like, so there is nothing to
configure. Two notations are known, both with a JSON object per call:

    hermes  <tool_call> {"name": "f", "arguments": {…}} </tool_call>   Hermes 2 Pro, Qwen 2.5 and 3
    llama3  {"name": "f", "parameters": {…}}                           Llama 3.1 to 3.3

Hermes' calls may come anywhere in the text, one or several. Llama's are the whole answer; several
are separated by semicolons.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolFormat:
    """One notation of tool calls."""

    name: str
    arguments: str
    """The key of a call's arguments."""
    opening: str = ""
    """Stands before each call; empty where a call is the whole answer."""
    closing: str = ""
    separator: str = ""
    """Between two calls."""


HERMES = ToolFormat(
    "hermes", "arguments", opening="<tool_call>", closing="</tool_call>", separator="\n"
)
LLAMA3 = ToolFormat("llama3", "parameters", separator="; ")

_NOT_JSON = ("<function=", "<arg_key>")
"""Marks of calls that stand between `<tool_call>` tags too, but are written in tags themselves."""


def format_of(template: str) -> ToolFormat | None:
    """Return the notation that a chat template teaches; None for none, or one that is unknown."""
    if "tools" not in template or any(mark in template for mark in _NOT_JSON):
        return None
    if HERMES.opening in template and "arguments" in template:
        return HERMES
    if '{"name": ' in template and '"parameters": ' in template:
        return LLAMA3
    return None
