"""What is kept of a stream, and what of it goes on, however the network cuts it."""

import itertools

import pytest
import vllm_answers
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract import journal
from penstock_gateway.relay.resumable_stream import (
    DONE,
    MAX_EVENT,
    ResumableStream,
    error_code,
)

CHUNKS = [b'data: {"n":%d,"text":"a\\n\\nb: c"}\n\n' % n for n in range(6)]
LINES = [journal.tokens_line(0, [n, n + 1]) for n in range(6)]
BEGIN = journal.begin_line("chatcmpl-1", 5, 42)
JOURNALED = BEGIN + b"".join(line + chunk for line, chunk in zip(LINES, CHUNKS, strict=True)) + DONE
PLAIN = b"".join(CHUNKS) + DONE
HANDED_BACK = b'data: {"error":{"code":"handed_back"}}\n\n'


def fed(record: ResumableStream, stream: bytes, cuts: set[int]) -> bytes:
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    return b"".join(record.feed(stream[a:b]) for a, b in itertools.pairwise(edges))


@given(st.sets(st.integers(1, len(JOURNALED))))
def test_events_go_on_whole_and_without_their_journal(cuts: set[int]) -> None:
    record = ResumableStream()
    assert fed(record, JOURNALED, cuts) == PLAIN
    assert record.done
    assert record.stopped


@given(st.integers(0, len(JOURNALED)), st.sets(st.integers(1, len(JOURNALED))))
def test_a_stream_that_breaks_goes_on_with_what_was_not_shown(end: int, cuts: set[int]) -> None:
    record = ResumableStream()
    shown = fed(record, JOURNALED[:end], cuts)
    resume = record.resume()
    if resume is None:
        assert shown == b""
        return
    assert (resume.id, resume.created, resume.seed) == ("chatcmpl-1", 5, 42)
    events = shown.count(b"data: {")
    told = [token for choice in resume.choices for token in choice.tokens]
    assert told == [token for n in range(events) for token in (n, n + 1)]
    record.restart(begun=True)
    rest = b"".join(
        line + chunk for line, chunk in zip(LINES[events:], CHUNKS[events:], strict=True)
    )
    if not record.done:
        assert shown + record.feed(rest + DONE) == PLAIN
        assert record.done


@given(st.sets(st.integers(1, len(PLAIN))))
def test_a_stream_without_a_journal_passes_and_cannot_go_on(cuts: set[int]) -> None:
    record = ResumableStream()
    assert fed(record, PLAIN, cuts) == PLAIN
    assert record.done
    assert record.resume() is None


def test_other_line_ends_and_comments_pass_as_they_are() -> None:
    for stream in (
        PLAIN.replace(b"\n\n", b"\r\n\r\n"),
        b": ping\n\n" + PLAIN,
        b"event: message\n" + PLAIN,
        PLAIN.replace(b"data: {", b"data:{"),
    ):
        record = ResumableStream()
        assert record.feed(stream[:7]) + record.feed(stream[7:]) == stream
        assert record.done


def test_an_error_is_kept_back() -> None:
    record = ResumableStream()
    head = len(BEGIN + LINES[0] + CHUNKS[0])
    assert record.feed(JOURNALED[:head] + HANDED_BACK + DONE) == CHUNKS[0]
    assert record.stopped
    assert record.error == HANDED_BACK
    assert error_code(HANDED_BACK[6:]) == "handed_back"
    assert not record.done
    record.restart(begun=True)
    assert record.feed(JOURNALED[head:]) == PLAIN[len(CHUNKS[0]) :]


def test_what_no_client_has_seen_is_no_part_of_another_workers_answer() -> None:
    record = ResumableStream()
    record.feed(vllm_answers.ROLE + vllm_answers.ABORTED)
    assert record.aborted
    record.restart(begun=False)
    assert record.feed(vllm_answers.NOTHING) == b""
    assert record.aborted
    assert not record.done


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\n\n",
        b"<html>\n\n",
        b'data: {"n":\n\n',
        b'data: <"n":1}\n\n',
        b': tokens 0 5\ndata: <"n":1}\n\n',
        # Bytes are missing, so that HTTP's own framing of the next event is inside of this one.
        b': tok2a\r\n: tokens 0 5\ndata: {"n":1}\n\n',
        b'\r\n2a\r\n: tokens 0 5\ndata: {"n":1}\n\n',
        b'2a\n: tokens 0 5\ndata: {"n":1}\n\n',
        b': tokens 0 1"n":1}\n\n',
        b"x" * (MAX_EVENT + 1),
    ],
)
def test_garbage_never_goes_on(garbage: bytes) -> None:
    record = ResumableStream()
    head = len(BEGIN + LINES[0] + CHUNKS[0])
    assert record.feed(JOURNALED[:head] + garbage) == CHUNKS[0]
    assert record.stopped
    assert record.error is None
    record.restart(begun=True)
    assert record.feed(JOURNALED[head:]) == PLAIN[len(CHUNKS[0]) :]


def test_a_stream_whose_journal_is_damaged_does_not_go_on_elsewhere() -> None:
    record = ResumableStream()
    assert record.feed(BEGIN + b": tokens 0 1-2\n" + CHUNKS[0]) == CHUNKS[0]
    assert record.resume() is None


def test_the_first_event_must_be_one_to_the_last_byte() -> None:
    for stream in (b'data: {"n":1,}\n\n', BEGIN + LINES[0] + b'data: {"n" 1}\n\n'):
        record = ResumableStream()
        assert record.feed(stream) == b""
        assert record.stopped
        assert record.resume() is None


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":1}', b"[]", b"\xff", b'{"error":{}}'])
def test_an_error_without_a_code_has_none(body: bytes) -> None:
    assert error_code(body) == ""
