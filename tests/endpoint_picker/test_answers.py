"""What an answer that passes by says of its worker, and what it does not say."""

import gzip

import pytest

from penstock_contract.metrics import Fault, Outcome
from penstock_gateway.endpoint_picker.answer import Answer, Verdict

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_what_a_gateway_has_compressed_is_not_taken_for_garbage(kind: str) -> None:
    found = {"content-type": kind, "content-encoding": "gzip"}
    answer = Answer(200, found, CHAT, stream=kind == "text/event-stream")
    answer.feed(gzip.compress(b'{"choices":[]}'))
    verdict = answer.verdict()
    assert verdict == Verdict()
    assert verdict.outcome is Outcome.COMPLETE


def test_what_is_sent_plainly_may_say_so() -> None:
    answer = Answer(200, {"content-encoding": "identity"}, CHAT, stream=False)
    answer.feed(b"<html>")
    assert answer.verdict() == Verdict.of(Fault.GARBAGE)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (504, b"upstream request timeout"),
        (503, b"upstream connect error or disconnect/reset before headers. reset reason: overflow"),
    ],
)
def test_what_a_gateway_says_of_itself_is_nothing_of_the_worker(status: int, text: bytes) -> None:
    answer = Answer(status, {"content-type": "text/plain"}, CHAT, stream=True)
    answer.feed(text)
    assert answer.verdict() is None
