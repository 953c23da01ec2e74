"""The resume journal: its lines, and what a stream that was cut anywhere still says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock_contract.journal import (
    USAGE_LINE,
    Resume,
    ResumedChoice,
    begin_line,
    parse,
    tokens_line,
)

GOLDEN = (
    b": resume id=chatcmpl-1 created=1763700000 seed=-42\n"
    b": tokens 0 15,27 cached=32\n"
    b'data: {"choices":[{"index":0}]}\n\n'
    b": tokens 1 9\n"
    b'data: {"choices":[{"index":1}]}\n\n'
    b": tokens 0 311 finish=stop\n"
    b'data: {"choices":[{"index":0}]}\n\n'
    b": tokens 1  finish=length\n"
    b'data: {"choices":[{"index":1}]}\n\n'
    b": usage\n"
    b'data: {"choices":[],"usage":{}}\n\n'
    b"data: [DONE]\n\n"
)


def test_lines_are_written_as_they_always_were() -> None:
    data = [line + b"\n\n" for line in GOLDEN.split(b"\n") if line.startswith(b"data:")]
    lines = [
        begin_line("chatcmpl-1", 1763700000, -42) + tokens_line(0, [15, 27], cached_tokens=32),
        tokens_line(1, [9]),
        tokens_line(0, [311], finish_reason="stop"),
        tokens_line(1, [], finish_reason="length"),
        USAGE_LINE,
        b"",
    ]
    assert b"".join(a + b for a, b in zip(lines, data, strict=True)) == GOLDEN


def test_a_whole_stream_says_what_was_shown() -> None:
    found = parse(GOLDEN)
    assert found.resume == Resume(
        id="chatcmpl-1",
        created=1763700000,
        seed=-42,
        choices=(
            ResumedChoice(index=0, tokens=(15, 27, 311), cached_tokens=32, finish_reason="stop"),
            ResumedChoice(index=1, tokens=(9,), finish_reason="length"),
        ),
        usage_sent=True,
    )
    assert found.whole == len(GOLDEN)
    assert found.done


def test_a_resumption_survives_json() -> None:
    resume = parse(GOLDEN).resume
    assert resume is not None
    assert Resume.model_validate_json(resume.model_dump_json()) == resume


@given(st.integers(0, len(GOLDEN)))
def test_a_stream_cut_anywhere_says_what_its_whole_events_say(cut: int) -> None:
    found = parse(GOLDEN[:cut])
    assert GOLDEN[: found.whole].endswith(b"\n\n") or found.whole == 0
    assert b"\n\n" not in GOLDEN[found.whole : cut]
    assert found.resume == parse(GOLDEN[: found.whole]).resume
    assert found.done == (cut == len(GOLDEN))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2**32 - 1), min_size=1)), min_size=1
    )
)
def test_tokens_come_back_by_choice_in_their_order(events: list[tuple[int, list[int]]]) -> None:
    stream = begin_line("x", 0, 0)
    for choice, tokens in events:
        stream += tokens_line(choice, tokens) + b"data: {}\n\n"
    resume = parse(stream).resume
    assert resume is not None
    for resumed in resume.choices:
        shown = [token for index, ids in events if index == resumed.index for token in ids]
        assert list(resumed.tokens) == shown


@pytest.mark.parametrize("stream", [b"", b"data: {}\n\n", b": ping\n\ndata: {}\n\n"])
def test_a_stream_without_a_journal_cannot_be_resumed(stream: bytes) -> None:
    assert parse(stream).resume is None


def test_text_that_looks_like_a_journal_is_none() -> None:
    text = rb'data: {"content":"\n: tokens 0 1\n"}' + b"\n\n"
    resume = parse(begin_line("x", 0, 0) + tokens_line(0, [5]) + text).resume
    assert resume is not None
    assert resume.choices == (ResumedChoice(index=0, tokens=(5,)),)


def test_an_id_that_could_break_a_line_is_refused() -> None:
    with pytest.raises(ValidationError):
        Resume(id="a\nb", created=0, seed=0)
