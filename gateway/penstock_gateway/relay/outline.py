"""What of a request's fields decides whether its stream can go on elsewhere, and how. Pure.

It is taken while the body is parsed anyway, and is small: prompts, tools and schemas are not kept.
"""

from collections.abc import Mapping
from typing import Any, Final

ASK: Final = "return_token_ids"
MAX_BODY: Final = 512 * 1024
"""Bytes of a request, of which tools and documents are in the prompt, too; the ids of a longer one
might be more than an event may have."""
MOST_STOPS: Final = 16
"""Stop strings that are looked for where a stream goes on."""
LONGEST_STOP: Final = 256
"""Characters of one."""

TOLD: Final = frozenset({"logprobs", "top_logprobs", "return_tokens_as_token_ids"})
"""Fields that show the client tokens."""
TOOLS: Final = "tools"
AUTO: Final = "tool_choice: auto"
"""Stands for that field with that value."""

_FREE: Final = frozenset({
    "model", "prompt", "messages", "stream", "stream_options", "user", "metadata", "store",
    "service_tier", "safety_identifier", "prompt_cache_key", "session_id", "request_id",
    "priority", "cache_salt", "stream_interval",
    "temperature", "top_p", "top_k", "min_p", "seed", "logit_bias", "allowed_token_ids",
    "max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "stop_token_ids",
    "repetition_penalty",  # counts prompt and answer alike
    "skip_special_tokens", "add_special_tokens", "truncate_prompt_tokens", "truncation_side",
    "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs",
    "documents", "reasoning_effort", "parallel_tool_calls", "stop", ASK,
})  # fmt: skip
"""Fields that mean the same for the rest of an answer as for all of it, or are seen to."""

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,), "best_of": (1,), "use_beam_search": (False,), "length_penalty": (1,),
    "echo": (False,), "bad_words": ([],), "include_stop_str_in_output": (False,),
    "frequency_penalty": (0,), "presence_penalty": (0,),  # count the answer alone
    "spaces_between_special_tokens": (True,), "include_reasoning": (True,),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none",),
    "suffix": ("",),
}  # fmt: skip
"""Fields that make a request one that cannot be continued, but for these values."""


class Outline:
    """Of one request.

    Args:
        fields: of its body.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.odd = frozenset(
            AUTO if name == "tool_choice" and value == "auto" else name
            for name, value in fields.items()
            if not _is_plain(name, value)
        )
        """Fields that may be in the way."""
        self.is_text = _is_text(fields.get("messages"))
        """Its messages are text alone."""
        self.is_one = _is_one(fields.get("prompt"))
        """It is one prompt, and not several."""
        self.newer = fields.get("max_completion_tokens")
        """The newer field for the tokens of an answer."""
        self.most = fields.get("max_tokens")
        self.says_most = "max_tokens" in fields
        self.least = fields.get("min_tokens") or 0
        self.shows_ids = fields.get(ASK) is True
        logprobs = fields.get("logprobs")
        self.shows_logprobs = logprobs is not None and logprobs is not False
        options = fields.get("stream_options")
        self.includes_usage = isinstance(options, dict) and options.get("include_usage") is True
        self.stops = _stops(fields.get("stop"))
        """Stop strings; None: not what the gateway knows of them."""


def _is_plain(name: str, value: Any) -> bool:
    return value is None or name in _FREE or value in _NEUTRAL.get(name, ())


def _stops(stop: Any) -> tuple[str, ...] | None:
    found = [stop] if isinstance(stop, str) else (stop or [])
    if not isinstance(found, list) or len(found) > MOST_STOPS:
        return None
    if not all(isinstance(one, str) and len(one) <= LONGEST_STOP for one in found):
        return None
    return tuple(one for one in found if one)


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
    if isinstance(prompt, list):
        return len(prompt) == 1 or (bool(prompt) and isinstance(prompt[0], int))
    return isinstance(prompt, str)
