"""Which streams of vLLM another vLLM can continue, and how it is asked to. Pure.

vLLM tells the token ids of prompt and answer where a request asks for them, and takes a prompt of
ids: at /v1/completions as the prompt, at /v1/chat/completions in the place of what the template
would make of the messages (`kv_transfer_params`, as a decode worker gets them from its prefill
worker), so that what it streams has the form of the first half. What it then samples knows the
answer so far as a part of the prompt. A request is continued where that makes no difference;
whatever is not known to make none, a field that is new for instance, is not continued.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from penstock_contract import handoff
from penstock_gateway.relay.request import with_field

CHAT: Final = "/v1/chat/completions"
PLAIN: Final = "/v1/completions"
MAX_BODY: Final = 512 * 1024
"""Bytes of a request, of which tools and documents are in the prompt, too; the ids of a longer one
might be more than an event may have."""

ASK: Final = "return_token_ids"
_DEFAULT_MOST: Final = 16
"""Tokens of a plain completion that does not say."""

_FREE: Final = frozenset({
    "model", "prompt", "messages", "stream", "stream_options", "user", "metadata", "store",
    "service_tier", "safety_identifier", "prompt_cache_key", "session_id", "request_id",
    "priority", "cache_salt", "stream_interval",
    "temperature", "top_p", "top_k", "min_p", "seed", "logit_bias", "allowed_token_ids",
    "max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stop_token_ids",
    "repetition_penalty",  # counts prompt and answer alike
    "skip_special_tokens", "add_special_tokens", "truncate_prompt_tokens", "truncation_side",
    "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs",
    "documents", "reasoning_effort", "parallel_tool_calls", ASK,
})  # fmt: skip
"""Fields that mean the same for the rest of an answer as for all of it, or are reduced."""

_TOLD: Final = frozenset({"logprobs", "top_logprobs", "return_tokens_as_token_ids"})
"""Fields of chat completions that show the client tokens."""

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,), "best_of": (1,), "use_beam_search": (False,), "length_penalty": (1,),
    "echo": (False,), "stop": ([], ""), "bad_words": ([],), "include_stop_str_in_output": (False,),
    "frequency_penalty": (0,), "presence_penalty": (0,),  # count the answer alone
    "spaces_between_special_tokens": (True,), "include_reasoning": (True,),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none",),
    "suffix": ("",),
}  # fmt: skip
"""Fields that make a request one that cannot be continued, but for these values."""

PARSERS: Final = frozenset({
    "hermes", "qwen3_json", "qwen3_coder", "qwen3_xml", "llama3_json", "llama4_json",
    "llama4_pythonic", "pythonic", "deepseek_v3", "deepseek_v31", "internlm", "jamba", "xlam",
    "phi4_mini_json", "deepseek_r1", "qwen3", "glm45",
})  # fmt: skip
"""Those of vLLM 0.32 that pass text on while no tool is called, and see in a prompt whether its
reasoning has ended."""
_REASONING: Final = frozenset({"deepseek_r1", "qwen3"})
"""Those that go on inside of a reasoning that a prompt leaves open."""
_CALLS: Final = frozenset({"hermes", "qwen3_json", "qwen3_coder", "qwen3_xml"})
"""Those that know a call by its marks, wherever in an answer they come."""


class Plan:
    """How a stream is continued.

    Args:
        path: of the request.
        most: tokens that the answer may have; None: as many as there is room for.
        most_field: the field that says so.
        least: tokens that it must have.
        shows_ids: the client asked for token ids itself.
        shows_tokens: the client sees more of a token than its text.
        includes_usage: the last event tells usage.
        parsers: that vLLM divides the answer with.
    """

    def __init__(
        self,
        path: str,
        most: int | None,
        most_field: str,
        least: int,
        *,
        shows_ids: bool,
        shows_tokens: bool,
        includes_usage: bool,
        parsers: Sequence[str],
    ) -> None:
        self.chat = path == CHAT
        self.parsed = self.chat and bool(parsers)
        self.reasons = self.chat and not _REASONING.isdisjoint(parsers)
        self.shows_ids = shows_ids
        self.shows_tokens = shows_tokens
        self.includes_usage = includes_usage
        self._most = most
        self._most_field = most_field
        self._least = least

    def first(self, body: bytes) -> bytes:
        """Return the request for the whole answer."""
        return body if self.shows_ids else with_field(body, ASK, b"true")

    def is_over(self, count: int) -> bool:
        """Return whether an answer of so many tokens is all that was asked for."""
        return self._most is not None and count >= self._most

    def rest(self, body: bytes, ids: bytes, count: int) -> bytes:
        """Return the request for what is missing.

        Args:
            body: as the client sent it.
            ids: of the prompt and of the answer so far, as in a JSON list.
            count: tokens of the answer so far.
        """
        body = with_field(self.first(body), "truncate_prompt_tokens", b"null")
        if self._most is not None:
            body = with_field(body, self._most_field, b"%d" % (self._most - count))
        if self._least:
            body = with_field(body, "min_tokens", b"%d" % max(0, self._least - count))
        if self.chat:
            return with_field(body, handoff.FIELD, b'{"prompt_token_ids":[%b]}' % ids)
        return with_field(body, "prompt", b"[%b]" % ids)


def plan(body: bytes, path: str, parsers: Sequence[str]) -> Plan | None:
    """Return how a stream is continued; None: it cannot be.

    Args:
        body: of the request.
        path: of the request.
        parsers: that vLLM divides answers with.
    """
    chat = path == CHAT
    if not (chat or path == PLAIN) or len(body) > MAX_BODY:
        return None
    if chat and not PARSERS.issuperset(parsers):
        return None
    fields = orjson.loads(body)
    calls = chat and not _CALLS.isdisjoint(parsers)
    if not all(
        _passes(name, value, chat) or (calls and _may_call(name, value))
        for name, value in fields.items()
    ):
        return None
    if not (_is_text(fields.get("messages")) if chat else _is_one(fields.get("prompt"))):
        return None
    return _plan(fields, path, parsers)


def _plan(fields: Mapping[str, Any], path: str, parsers: Sequence[str]) -> Plan | None:
    chat = path == CHAT
    newer = chat and fields.get("max_completion_tokens") is not None
    most_field = "max_completion_tokens" if newer else "max_tokens"
    most = fields.get(most_field, None if chat else _DEFAULT_MOST)
    least = fields.get("min_tokens") or 0
    if not (type(most) is int or (chat and most is None)) or type(least) is not int:
        return None
    shows_ids = fields.get(ASK) is True
    options = fields.get("stream_options")
    return Plan(
        path,
        most,
        most_field,
        least,
        shows_ids=shows_ids,
        shows_tokens=shows_ids or bool(fields.get("logprobs")),
        includes_usage=isinstance(options, dict) and options.get("include_usage") is True,
        parsers=parsers,
    )


def _passes(name: str, value: Any, chat: bool) -> bool:
    """Return whether a field leaves a request one that can be continued."""
    if value is None or name in _FREE or (chat and name in _TOLD):
        return True
    return value in _NEUTRAL.get(name, ())


def _may_call(name: str, value: Any) -> bool:
    """Return whether a field leaves it to the model whether it calls a tool."""
    return name == "tools" or (name == "tool_choice" and value == "auto")


def _is_text(messages: Any) -> bool:
    """Return whether messages are text alone: of pictures and sounds, ids are not all."""
    return isinstance(messages, list) and all(
        isinstance(message, dict) and _is_text_content(message.get("content"))
        for message in messages
    )


def _is_text_content(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    return content is None or isinstance(content, str)


def _is_one(prompt: Any) -> bool:
    """Return whether it is one prompt, and not several."""
    if isinstance(prompt, list):
        return len(prompt) == 1 or (bool(prompt) and isinstance(prompt[0], int))
    return isinstance(prompt, str)
