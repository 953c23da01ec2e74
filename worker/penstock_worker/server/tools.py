"""The tools that a request offers to the model, and the grammar that its calls must follow.

Where a call is certain (`tool_choice` required or a name) or promised to fit its schema (`strict`),
the output is constrained, in the notation that the model was trained on: such calls always parse.
Otherwise the model writes what it likes, and what looks like a call becomes one. Pure.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.conversation import Function, NamedToolChoice, Tool
from penstock_worker.server.protocol import ChatRequest
from penstock_worker.text.tool_calls import ToolCalls
from penstock_worker.text.tool_format import ToolFormat

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_STYLE = {"whitespace_pattern": "[ ]?"}


@dataclass(frozen=True)
class Offered:
    """Tools that the model may call, or must."""

    tools: Sequence[Tool]
    callable: Sequence[Function]
    """Of the tools, those that the choice leaves."""
    form: ToolFormat
    required: bool
    parallel: bool
    """Whether there may be more than one call."""

    @property
    def constrained(self) -> bool:
        """Whether calls follow a grammar."""
        return self.required or any(function.strict for function in self.callable)

    def dumped(self) -> list[dict[str, Any]]:
        """Return the tools as they were sent, for the chat template."""
        return [tool.model_dump(exclude_unset=True) for tool in self.tools]

    def reader(self) -> ToolCalls:
        """Return what finds the calls in an answer."""
        return ToolCalls(self.form, parallel=self.parallel)


def offered(request: ChatRequest, form: ToolFormat | None) -> Offered | None:
    """Return the tools of a request; None when it has none, or the model is not to call any.

    Args:
        request: the body.
        form: how the model writes calls, if it does.

    Raises:
        ApiError: the choice and the tools do not go together, or the model knows no tools.
    """
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "auto", "none"):
            raise _wrong("tool_choice", "needs tools: send some, or leave it out")
        return None
    if choice == "none":
        return None
    if form is None:
        raise ApiError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            "tools is not supported here: this model's chat template has no tool calls in a "
            "notation that is known (Hermes' or Llama 3's JSON); leave it out",
            param="tools",
        )
    functions = [tool.function for tool in request.tools]
    named = isinstance(choice, NamedToolChoice)
    chosen = functions
    if isinstance(choice, NamedToolChoice):
        chosen = [one for one in functions if one.name == choice.function.name]
        if not chosen:
            raise _wrong("tool_choice", f"names {choice.function.name!r}, which is not in tools")
    if len({function.name for function in functions}) < len(functions):
        raise _wrong("tools", "must have different names")
    return Offered(
        tools=request.tools,
        callable=chosen,
        form=form,
        required=named or choice == "required",
        parallel=request.parallel_tool_calls and not named,
    )


def tool_grammar(
    of: Offered, answer: dict[str, Any] | None, is_token: Callable[[str], bool]
) -> str | None:
    """Return what an output with tools must follow, in llguidance's notation; None for anything.

    Args:
        of: the tools.
        answer: the JSON schema of an answer without calls; None for any text.
        is_token: whether a mark is a token of its own, which a grammar spells in another way.
    """
    if answer is None and not of.constrained:
        return None
    form = of.form
    opening, closing = (
        _mark(mark, is_token(mark)) if mark else "" for mark in (form.opening, form.closing)
    )
    before, behind = (f'{opening} "\\n"', f'"\\n" {closing}') if form.opening else ("", "")
    call = " ".join(part for part in (before, "object", behind) if part)
    more = f"({json.dumps(form.separator)} call)*" if of.parallel else ""
    rules = [f"call: {call}", "object: " + " | ".join(f"call_{i}" for i in range(len(of.callable)))]
    rules += [_call_rule(i, function, form.arguments) for i, function in enumerate(of.callable)]
    if of.required:
        start = [f"start: call {more}"]
    elif answer is not None:
        start = [f"start: call {more} | answer", f"answer: %json {json.dumps(_styled(answer))}"]
    elif not form.opening:
        start = [f"start: TEXT | call {more}", r"TEXT: /([^{](.|\n)*)?/"]
    elif is_token(form.opening):
        start = [f"start: TEXT | TEXT call {more}", r"TEXT: /(.|\n)*/"]
    else:  # text up to the mark, which ends it
        start = [
            f'start: TEXT | lead "\\n" object {behind} {more}',
            r"TEXT: /(.|\n)*/",
            f"lead[lazy]: /(.|\\n)*{form.opening}/",
        ]
    return "\n".join([*start, *rules])


def _mark(text: str, is_token: bool) -> str:
    return text if is_token else json.dumps(text)


def _call_rule(index: int, function: Function, arguments: str) -> str:
    head = f'{{"name": {json.dumps(function.name)}, "{arguments}": '
    # Without `strict`, keywords that no grammar can hold are passed over, as OpenAI does.
    schema = _styled(function.parameters or _NO_ARGUMENTS, lenient=not function.strict)
    return f'call_{index}: {json.dumps(head)} %json {json.dumps(schema)} "}}"'


def _styled(schema: dict[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    return {**schema, "x-guidance": {**_STYLE, "lenient": lenient}}


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{param} {problem}", param=param)
