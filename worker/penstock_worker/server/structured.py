"""From the fields that ask for a structured output to a grammar, in llguidance's notation. Pure."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from llguidance import LLMatcher

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.grammar import GrammarError, Grammars
from penstock_worker.server.protocol import ChatRequest, CompletionRequest
from penstock_worker.server.tools import Offered, tool_grammar

MAX_GRAMMAR_BYTES = 64 << 10
"""Of a schema, an expression or all choices: what it may cost is bounded with its size."""
MAX_CHOICES = 1024

# Between tokens of JSON at most one space: models that are unsure would else write spaces for ever.
_JSON_STYLE: Any = {"whitespace_pattern": "[ ]?"}

Wanted = tuple[str, str, Any]
"""The field that asks, the kind (json, regex or choice), and its value."""


class Grammar(NamedTuple):
    """A grammar and the field that asks for it."""

    field: str
    text: str


def checked(grammars: Grammars, wanted: Grammar) -> None:
    """Read a grammar as the engine will, up to the first token; takes up to 0.3 s.

    Raises:
        ApiError: it cannot be read or is too complex.
    """
    try:
        grammars.matcher(wanted.text).allowed([])
    except GrammarError as error:
        raise _wrong(wanted.field, f"cannot be used as a grammar: {error}") from error


def grammar(
    request: ChatRequest | CompletionRequest,
    tools: Offered | None = None,
    is_token: Callable[[str], bool] = lambda _: False,
) -> Grammar | None:
    """Return the grammar of the wanted output; None when any text will do.

    Args:
        request: the body.
        tools: that the model may call.
        is_token: whether a text is a token of its own.

    Raises:
        ApiError: what is wanted makes no sense, or two fields want something.
    """
    wanted = _structured_outputs(request) + _guided(request) + _response_format(request)
    if len(wanted) > 1:
        raise _wrong(wanted[1][0], f"does not go together with {wanted[0][0]}: send one of them")
    if tools is not None:
        return _with_tools(tools, wanted[0] if wanted else None, is_token)
    if not wanted:
        return None
    field, kind, value = wanted[0]
    match kind:
        case "json":
            return Grammar(field, _json(field, value))
        case "regex":
            return Grammar(field, _regex(field, value))
        case _:
            return Grammar(field, _choice(field, value))


def _with_tools(
    tools: Offered, wanted: Wanted | None, is_token: Callable[[str], bool]
) -> Grammar | None:
    """Calls, or where both are possible, calls or an answer in JSON."""
    answer = None
    if wanted is not None:
        field, kind, value = wanted
        if tools.required or kind != "json":
            raise _wrong(field, "does not go together with tools here: send one of them")
        answer = _schema(field, value)
    text = tool_grammar(tools, answer, is_token)
    if text is None:
        return None
    _check_size("tools", len(text.encode()))
    return Grammar("tools", text)


def _structured_outputs(request: ChatRequest | CompletionRequest) -> list[Wanted]:
    """vLLM's field; null members are left out by its clients' serialisers or sent, at will."""
    wanted: list[Wanted] = []
    for kind, value in (request.structured_outputs or {}).items():
        field = f"structured_outputs.{kind}"
        if value is None or value is False:
            continue
        if kind == "json_object":
            wanted.append((field, "json", {"type": "object"}))
        elif kind in ("json", "regex", "choice"):
            wanted.append((field, kind, value))
        else:
            raise _unsupported(field, "send json, json_object, regex or choice")
    return wanted


def _guided(request: ChatRequest | CompletionRequest) -> list[Wanted]:
    """What older vLLM called the same."""
    found = (
        ("guided_json", "json", request.guided_json),
        ("guided_regex", "regex", request.guided_regex),
        ("guided_choice", "choice", request.guided_choice),
    )
    return [wanted for wanted in found if wanted[2] is not None]


def _response_format(request: ChatRequest | CompletionRequest) -> list[Wanted]:
    form = request.response_format or {}
    match form.get("type", "text"):
        case "text":
            return []
        case "json_object":
            return [("response_format", "json", {"type": "object"})]
        case "json_schema":
            described = form.get("json_schema")
            if not isinstance(described, dict):
                raise _wrong("response_format.json_schema", "must be an object with a schema")
            return [("response_format.json_schema.schema", "json", described.get("schema", {}))]
    raise _unsupported("response_format.type", "send text, json_object or json_schema")


def _json(field: str, schema: Any) -> str:
    schema = _schema(field, schema)
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_STYLE)
    except ValueError as error:
        raise _wrong(field, f"is no usable JSON schema: {error}") from error


def _schema(field: str, schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise _wrong(field, f"is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise _wrong(field, "must be a JSON schema, an object")
    _check_size(field, len(orjson.dumps(schema)))
    return schema


def _regex(field: str, expression: Any) -> str:
    if not isinstance(expression, str):
        raise _wrong(field, "must be a string")
    _check_size(field, len(expression.encode()))
    return LLMatcher.grammar_from_regex(expression)


def _choice(field: str, choices: Any) -> str:
    if not isinstance(choices, list) or not 1 <= len(choices) <= MAX_CHOICES:
        raise _wrong(field, f"must be a list of 1 to {MAX_CHOICES} strings")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise _wrong(field, "must have strings in it that are not empty")
    _check_size(field, sum(len(choice.encode()) for choice in choices))
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return LLMatcher.grammar_from_lark(f"start: {alternatives}")


def _check_size(field: str, size: int) -> None:
    if size > MAX_GRAMMAR_BYTES:
        raise _wrong(field, f"must have at most {MAX_GRAMMAR_BYTES} bytes")


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{param} {problem}", param=param)


def _unsupported(param: str, fix: str) -> ApiError:
    return ApiError(
        ErrorCode.UNSUPPORTED_PARAMETER, f"{param} is not supported here: {fix}", param=param
    )
