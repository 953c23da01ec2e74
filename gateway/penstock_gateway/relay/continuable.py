"""Which streams of vLLM another vLLM can continue, and how it is asked to. Pure.

vLLM tells the token ids of prompt and answer where a request asks for them, and takes a prompt of
ids: at /v1/completions as the prompt, at /v1/chat/completions in the place of what the template
would make of the messages (`kv_transfer_params`, as a decode worker gets them from its prefill
worker), so that what it streams has the form of the first half. What it then samples knows the
answer so far as a part of the prompt. A request is continued where that makes no difference, or
one that can be made good (`stop_strings`, `offsets`); whatever is not known to make none, a field
that is new for instance, is not continued.
"""

from collections.abc import Sequence
from typing import Final

from penstock_contract import handoff
from penstock_gateway.relay.outline import ASK, AUTO, TOLD, TOOLS, Outline
from penstock_gateway.relay.request import with_field

CHAT: Final = "/v1/chat/completions"
PLAIN: Final = "/v1/completions"
_DEFAULT_MOST: Final = 16
"""Tokens of a plain completion that does not say."""

_REASON: Final = frozenset({"deepseek_v3", "deepseek_v31", "deepseek_r1", "qwen3", "glm45"})
"""Parsers that divide reasoning from answers."""
PARSERS: Final = _REASON | frozenset({
    "hermes", "qwen3_json", "qwen3_coder", "qwen3_xml", "llama3_json", "llama4_json",
    "llama4_pythonic", "pythonic", "internlm", "jamba", "xlam", "phi4_mini_json",
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
        outline: of the request.
        path: of the request.
        most: tokens that the answer may have; None: as many as there is room for.
        most_field: the field that says so.
        stops: strings at which the answer ends, where some may straddle a break.
        parsers: that vLLM divides the answer with.
    """

    def __init__(
        self,
        outline: Outline,
        path: str,
        most: int | None,
        most_field: str,
        stops: tuple[str, ...],
        parsers: Sequence[str],
    ) -> None:
        self.chat = path == CHAT
        self.parsed = self.chat and bool(parsers)
        self.reasons = self.chat and not _REASONING.isdisjoint(parsers)
        self.shows_ids = outline.shows_ids
        """The client asked for token ids itself."""
        self.shows_tokens = outline.shows_ids or outline.shows_logprobs
        """The client sees more of a token than its text."""
        self.shows_offsets = outline.shows_logprobs and not self.chat
        """And where in the answer each begins."""
        self.includes_usage = outline.includes_usage
        """The last event tells usage."""
        self.stops = stops
        self._most = most
        self._most_field = most_field
        self._least: int = outline.least

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


def plan(outline: Outline | None, path: str, parsers: Sequence[str]) -> Plan | None:
    """Return how a stream is continued; None: it cannot be.

    Args:
        outline: of the request; None: it is too long to be continued.
        path: of the request.
        parsers: that vLLM divides answers with.
    """
    chat = path == CHAT
    if outline is None or not (chat or path == PLAIN):
        return None
    if chat and not PARSERS.issuperset(parsers):
        return None
    fine = TOLD
    if chat and not _CALLS.isdisjoint(parsers):
        fine = TOLD | {TOOLS, AUTO}
    if not outline.odd <= fine or not (outline.is_text if chat else outline.is_one):
        return None
    return _plan(outline, path, parsers)


def _plan(outline: Outline, path: str, parsers: Sequence[str]) -> Plan | None:
    chat = path == CHAT
    newer = chat and outline.newer is not None
    most_field = "max_completion_tokens" if newer else "max_tokens"
    most = outline.newer if newer else outline.most
    if not (chat or outline.says_most):
        most = _DEFAULT_MOST
    if not (type(most) is int or (chat and most is None)) or type(outline.least) is not int:
        return None
    if outline.stops is None or (outline.stops and not _may_stop(outline, parsers)):
        return None
    # vLLM keeps nothing back of a stop string of one character: none straddles a break.
    stops = outline.stops if any(len(stop) > 1 for stop in outline.stops) else ()
    return Plan(outline, path, most, most_field, stops, parsers)


def _may_stop(outline: Outline, parsers: Sequence[str]) -> bool:
    """Return whether what vLLM keeps back for stop strings is the end of the text, and no more."""
    if TOOLS in outline.odd or not _REASON.isdisjoint(parsers):
        return False  # parsers keep text back, too, and in reasoning nothing stops an answer
    shows = outline.shows_ids or outline.shows_logprobs
    return not (shows or outline.least)
