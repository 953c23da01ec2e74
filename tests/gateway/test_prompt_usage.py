"""What the gateway reads out of an answer about its prompt."""

import json
from typing import Any

import pytest

from penstock_gateway.routing.prompt_usage import PromptUsage, first_token_of, of_answer, of_stream

USAGE = {"prompt_tokens": 120, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}


def both(report: PromptUsage | None) -> tuple[int | None, int | None]:
    assert report is not None
    return report.prompt, report.cached


def test_a_whole_answer_tells_both() -> None:
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps({"choices": [], "usage": USAGE}, separators=separators)
        assert both(of_answer(body.encode())) == (120, 64)


def test_what_a_model_says_about_tokens_is_not_believed() -> None:
    answer = {"choices": [{"text": json.dumps({"usage": USAGE})}]}
    assert both(of_answer(json.dumps(answer).encode())) == (None, None)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"usage": None},
        {"usage": [1]},
        {"usage": {"prompt_tokens": "9", "prompt_tokens_details": {"cached_tokens": -1}}},
        {"usage": {"prompt_tokens": 1e9, "prompt_tokens_details": 3}},
        {"usage": {"prompt_tokens": 1 << 40}},
    ],
)
def test_what_is_no_usage_tells_nothing(answer: Any) -> None:
    assert both(of_answer(json.dumps(answer).encode())) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[1]",
        b"null",
        b'{"usage": {}',
        b'{"usage": 3',
        b"{} {}",
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    assert of_answer(body) is None


def test_the_journal_of_a_stream_tells_what_was_cached() -> None:
    first = b": resume id=x created=1 seed=2\n: tokens 0 15,27 cached=32\ndata: {}\n\n"
    assert both(of_stream(first)) == (None, 32)
    begun = b": resume id=x created=1 seed=2\n: tokens 0 "
    assert of_stream(begun + b" cached=7\ndata: {}\n\n").cached == 7
    assert of_stream(begun + b"15\ndata: {}\n\n").cached == 0


def test_other_streams_tell_nothing() -> None:
    for first in (
        b"",
        b'data: {"usage": {"prompt_tokens": 3}}\n\n',
        b": resume id=x created=1 seed=2\ndata: cached=5\n\n",
    ):
        assert both(of_stream(first)) == (None, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"250", 0.25), (b"0", 0.0), (b"", None), (b"-1", None), (b"1e3", None), (b"9" * 40, None)],
)
def test_a_worker_tells_of_a_first_token_in_milliseconds(
    header: bytes, seconds: float | None
) -> None:
    assert first_token_of(header) == seconds
