"""How many tokens a prompt had and how many were cached, as an answer says it.

A stream with the resume journal (penstock_contract.journal) says in its first event how many
prompt tokens the prefix cache gave; an answer that is not streamed has both numbers in `usage`.
"""

import re
from typing import Annotated, Final

import msgspec
import orjson

_JOURNAL: Final = re.compile(rb"^: tokens \d+ [\d,]*(?: cached=(\d+))?", re.MULTILINE)

_MILLISECONDS: Final = re.compile(rb"\d{1,8}")


class PromptUsage:
    """What a prompt was; None where the answer does not tell.

    Args:
        prompt: its tokens.
        cached: those that were cached.
        first_token: seconds until the first token, of an answer that is not streamed.
    """

    def __init__(
        self,
        prompt: int | None = None,
        cached: int | None = None,
        first_token: float | None = None,
    ) -> None:
        self.prompt = prompt
        self.cached = cached
        self.first_token = first_token


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 30)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    """All that is made objects of; the rest is only checked, at a third of the time."""

    usage: _Usage | None = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


def of_stream(first: bytes) -> PromptUsage:
    """Return what the first piece of a stream tells."""
    found = _JOURNAL.search(first) if first.startswith(b": ") else None
    return PromptUsage(None, int(found[1] or 0) if found else None)


def of_answer(answer: bytes) -> PromptUsage | None:
    """Return what a whole answer tells; None: it is no JSON object."""
    try:
        usage = _DECODER.decode(answer).usage
    except msgspec.ValidationError:  # its usage is something else than what is meant by that
        return PromptUsage() if _is_object(answer) else None
    except (msgspec.DecodeError, RecursionError):
        return None
    if usage is None:
        return PromptUsage()
    details = usage.prompt_tokens_details
    return PromptUsage(usage.prompt_tokens, None if details is None else details.cached_tokens)


def first_token_of(header: bytes) -> float | None:
    """Return the seconds in a worker's `x-penstock-ttft-ms`, if that is what it is."""
    return int(header) / 1000 if _MILLISECONDS.fullmatch(header) else None


def _is_object(answer: bytes) -> bool:
    try:
        return isinstance(orjson.loads(answer), dict)
    except orjson.JSONDecodeError:
        return False
