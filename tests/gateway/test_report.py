"""What the gateway reads out of the beginning of an answer."""

import json

from penstock_gateway.routing.report import Report, report

USAGE = {"prompt_tokens": 120, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}


def test_a_whole_answer_tells_both() -> None:
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps({"choices": [], "usage": USAGE}, separators=separators).encode()
        assert report(body) == Report(120, 64)


def test_what_a_model_says_about_tokens_is_not_believed() -> None:
    text = '"prompt_tokens": 5, "cached_tokens": 5'
    assert report(json.dumps({"choices": [{"text": text}]}).encode()) == Report()


def test_the_journal_of_a_stream_tells_what_was_cached() -> None:
    first = b": resume id=x created=1 seed=2\n: tokens 0 15,27 cached=32\ndata: {}\n\n"
    assert report(first) == Report(None, 32)
    assert report(b": resume id=x created=1 seed=2\n: tokens 0  cached=7\ndata: {}\n\n").cached == 7
    assert report(b": resume id=x created=1 seed=2\n: tokens 0 15\ndata: {}\n\n").cached == 0


def test_other_answers_tell_nothing() -> None:
    assert report(b"") == Report()
    assert report(b'data: {"usage": {"prompt_tokens": 3}}\n\n') == Report()
    assert report(b": resume id=x created=1 seed=2\ndata: cached=5\n\n") == Report()
