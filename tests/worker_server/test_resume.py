"""A stream that is cut after any event and continued equals the one that was never cut.

In float32: in bfloat16, prefill and decode round differently by so much that a continued request
now and then draws another token.
"""

import json
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
SEEDED = {"temperature": 1.3, "seed": 7}
GREEDY = {"temperature": 0}
ENDS = (b"", b"[DONE]")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with worker(tmp_path_factory.mktemp("worker") / "log", "--dtype", "float32") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


def body(path: str, **options: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt": "The built-in function sorted() returns"}
    if path == CHAT:
        prompt = {"messages": [{"role": "user", "content": "What does sorted() return?"}]}
    common = {"model": NAME, "stream": True, "max_tokens": 24, "ignore_eos": True}
    return {**common, "stream_options": {"include_usage": True}, **prompt, **options}


def stream(served: WorkerProcess, path: str, payload: dict[str, Any]) -> bytes:
    answer = plain_http.post(served.url + path, json=payload, headers={JOURNAL: "1"})
    assert answer.status_code == 200, answer.text
    return answer.content


def resumption(prefix: bytes) -> dict[str, Any]:
    found = parse(prefix)
    assert found.whole == len(prefix)
    assert found.resume is not None
    return found.resume.model_dump()


def cuts(whole: bytes) -> Iterator[int]:
    """Yield the end of every event but the last."""
    end = whole.find(b"\n\n") + 2
    while end < len(whole):
        yield end
        end = whole.find(b"\n\n", end) + 2


def by_choice(raw: bytes) -> dict[int, list[bytes]]:
    """Return the events of each choice in order; -1 are those of none."""
    found: dict[int, list[bytes]] = {}
    for event in raw.split(b"\n\n"):
        data = event.rpartition(b"data: ")[2]
        if data not in ENDS:
            choices = json.loads(data)["choices"]
            found.setdefault(choices[0]["index"] if choices else -1, []).append(event)
    return found


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (COMPLETIONS, GREEDY),
        (COMPLETIONS, SEEDED),
        (CHAT, {"temperature": 1.0}),  # the worker's own seed is in the journal
        (CHAT, {"temperature": 4.0, "seed": 3}),  # wild: halves of characters too
        (
            CHAT,
            {
                **SEEDED,
                "presence_penalty": 1.5,
                "frequency_penalty": 0.5,
                "repetition_penalty": 1.3,
            },
        ),
        (COMPLETIONS, {**SEEDED, "stop": [" the", "list"], "min_tokens": 6, "max_tokens": 40}),
        (CHAT, {**GREEDY, "stop": "never to be found", "stop_token_ids": [280, 290]}),
        (CHAT, {**GREEDY, "ignore_eos": False, "min_tokens": 4, "max_tokens": 60}),
    ],
    ids=["greedy", "seeded", "own seed", "wild", "penalties", "stops", "stop tokens", "eos"],
)
def test_a_cut_stream_goes_on_as_if_nothing_had_happened(
    served: WorkerProcess, path: str, options: dict[str, Any]
) -> None:
    payload = body(path, **options)
    whole = stream(served, path, payload)
    assert whole.endswith(b"data: [DONE]\n\n")
    places = list(cuts(whole))
    assert len(places) > 2
    for cut in places:
        rest = stream(served, path, {**payload, FIELD: resumption(whole[:cut])})
        assert whole[:cut] + rest == whole


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_each_of_several_choices_goes_on(served: WorkerProcess, path: str) -> None:
    payload = body(path, **SEEDED, n=3, max_tokens=10, stop=" the")
    whole = stream(served, path, payload)
    for cut in cuts(whole):
        rest = stream(served, path, {**payload, FIELD: resumption(whole[:cut])})
        assert by_choice(whole[:cut] + rest) == by_choice(whole)


def test_a_batch_of_prompts_goes_on(served: WorkerProcess) -> None:
    payload = body(COMPLETIONS, **GREEDY, prompt=["A list", "A tuple is"], max_tokens=8)
    whole = stream(served, COMPLETIONS, payload)
    for cut in cuts(whole):
        rest = stream(served, COMPLETIONS, {**payload, FIELD: resumption(whole[:cut])})
        assert by_choice(whole[:cut] + rest) == by_choice(whole)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (CHAT, {"logprobs": True, "top_logprobs": 2}),
        (COMPLETIONS, {"logprobs": 2}),
        (COMPLETIONS, {"echo": True}),
        (COMPLETIONS, {"echo": True, "logprobs": 1}),
    ],
)
def test_log_probabilities_and_text_offsets_go_on(
    served: WorkerProcess, path: str, options: dict[str, Any]
) -> None:
    payload = body(path, **SEEDED, **options, max_tokens=12)
    whole = stream(served, path, payload)
    for cut in cuts(whole):
        rest = stream(served, path, {**payload, FIELD: resumption(whole[:cut])})
        (chunks, numbers), (wanted, exact) = taken_apart(whole[:cut] + rest), taken_apart(whole)
        assert chunks == wanted
        assert numbers == pytest.approx(exact, abs=1e-3)


def taken_apart(raw: bytes) -> tuple[list[Any], list[float]]:
    """Return the chunks without their fractions: prefill and decode differ in the last digits."""
    fractions: list[float] = []

    def without(text: str) -> None:
        fractions.append(float(text))

    events = [event.rpartition(b"data: ")[2] for event in raw.split(b"\n\n")]
    return [json.loads(e, parse_float=without) for e in events if e not in ENDS], fractions


def test_usage_is_not_sent_twice(served: WorkerProcess) -> None:
    payload = body(CHAT, **GREEDY, max_tokens=3)
    whole = stream(served, CHAT, payload)
    *_, last = cuts(whole)
    assert stream(served, CHAT, {**payload, FIELD: resumption(whole[:last])}) == b"data: [DONE]\n\n"


def test_without_the_header_there_is_no_journal_and_no_resumption(served: WorkerProcess) -> None:
    payload = body(CHAT, **GREEDY, max_tokens=5)
    whole = stream(served, CHAT, payload)
    plain = plain_http.post(served.url + CHAT, json=payload).content
    assert b"\n:" not in plain
    first = next(cuts(whole))
    forged = plain_http.post(served.url + CHAT, json={**payload, FIELD: resumption(whole[:first])})
    assert len(by_choice(forged.content)[0]) == len(by_choice(whole)[0])


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ([{"index": 1, "tokens": [5]}], "below 1"),
        ([{"index": 0, "tokens": [5]}, {"index": 0, "tokens": [6]}], "different"),
        ([{"index": 0, "tokens": [5] * 24}], "has not ended"),
        ([{"index": 0, "tokens": [999_999]}], "token ids"),
    ],
)
def test_a_resumption_of_something_else_is_refused(
    served: WorkerProcess, choices: list[dict[str, Any]], complaint: str
) -> None:
    resume = {"id": "chatcmpl-1", "created": 1, "seed": 1, "choices": choices}
    answer = plain_http.post(
        served.url + CHAT, json=body(CHAT, **{FIELD: resume}), headers={JOURNAL: "1"}
    )
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]
