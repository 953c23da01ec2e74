"""Events of vLLM's streams as JSON, for what seldom happens: a stream that breaks. Pure."""

from typing import Any, Final

import orjson

DATA: Final = b"data: "
GARBAGE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""What reading raises where an event is not one of vLLM's."""


def read(event: bytes) -> Any:
    """Return what is in an event."""
    return orjson.loads(event[len(DATA) :])


def written(found: Any) -> bytes:
    """Return an event."""
    return DATA + orjson.dumps(found) + b"\n\n"


def shown(event: bytes) -> str:
    """Return the text in an event."""
    (choice,) = read(event)["choices"]
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning") or "")


def next_place(event: bytes) -> int:
    """Return where in the answer the token after those of an event begins, if it tells places."""
    (choice,) = read(event)["choices"]
    told = choice["logprobs"]
    return int(told["text_offset"][-1]) + len(told["tokens"][-1])


def of_whole(event: bytes, tokens: int, characters: int) -> bytes:
    """Count usage and places in the text from the beginning of the whole answer.

    Args:
        event: of the rest.
        tokens: of the answer before; they are the prompt's for who wrote the event.
        characters: of these, as the events count them.
    """
    found = read(event)
    for choice in found["choices"]:
        told = choice.get("logprobs") or {}
        if told.get("text_offset"):
            told["text_offset"] = [characters + at for at in told["text_offset"]]
    if usage := found.get("usage"):
        usage["prompt_tokens"] -= tokens
        usage["completion_tokens"] += tokens
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])
    return written(found)
