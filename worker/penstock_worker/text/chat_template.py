"""Renders conversations with the model's own chat template, in a sandbox.

A template comes with the checkpoint, so it is code of somebody else: it runs in Jinja's immutable
sandbox, without access to attributes, files or imports.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock_worker.text.tool_format import format_of


class ChatTemplateError(ValueError):
    """The model has no template, or the template refuses this conversation."""


class ChatTemplate:
    """The `chat_template` of `tokenizer_config.json` (or `chat_template.jinja`).

    `tool_format` is how the model writes tool calls, where its template says so.

    Raises:
        ChatTemplateError: the template is not valid Jinja.
    """

    def __init__(self, folder: Path) -> None:
        config = _read(folder / "tokenizer_config.json")
        source = config.get("chat_template")
        if (folder / "chat_template.jinja").is_file():
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        with_tools = source
        if isinstance(source, list):  # several named templates
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("default")
            with_tools = named.get("tool_use", source)
        self.tool_format = format_of(with_tools or "")
        self._knows_developers = "developer" in f"{source}{with_tools}"
        self._tokens = {
            name: _token_text(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")
        }
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(source) if source else None
            self._with_tools = environment.from_string(with_tools) if with_tools else None
            # What a template asks for by name, and what is not already given another meaning.
            own = find_undeclared_variables(environment.parse(f"{source or ''}{with_tools or ''}"))
        except TemplateError as error:
            raise ChatTemplateError(f"the chat template is not valid: {error}") from error
        self._variables = own - {"messages", "tools", "add_generation_prompt", *self._tokens}

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Return the prompt text of a conversation, ready for the assistant's answer.

        Args:
            messages: the conversation.
            tools: that the assistant may call, in OpenAI's notation.
            variables: of the template's own, such as enable_thinking; others are passed over.

        Raises:
            ChatTemplateError: the model has none, or it refuses these messages.
        """
        if not self._knows_developers:
            messages = [_for_system(message) for message in messages]
        template = self._with_tools if tools else self._template
        if template is None:
            raise ChatTemplateError(
                "this model has no chat template: use /v1/completions with a prompt"
            )
        try:
            return template.render(
                {name: value for name, value in variables.items() if name in self._variables},
                messages=messages,
                add_generation_prompt=True,
                tools=tools,
                **self._tokens,
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise ChatTemplateError(f"the chat template refuses the messages: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChatTemplateError(f"{path.name} is not JSON: {error}") from error
    return found


def _for_system(message: dict[str, Any]) -> dict[str, Any]:
    """Most templates know no developers, and would leave out what they say without a word."""
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _token_text(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
