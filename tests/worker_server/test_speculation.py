"""A worker that guesses: the same answers, in fewer steps, and metrics that tell what it gained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse

TEXT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\n" * 3


@pytest.fixture(scope="module")
def guessing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log: Path = tmp_path_factory.mktemp("worker") / "log"
    with worker(log, "--speculative", "ngram", "--speculative-tokens", "5") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


def complete(served: WorkerProcess, **options: Any) -> Any:
    body = {"model": NAME, "prompt": TEXT, "temperature": 0, "max_tokens": 64, **options}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "seed": 4},
        {"logprobs": 1, "ignore_eos": True},
        {"stop": ["- b"]},
        {"n": 3, "temperature": 0.5, "seed": 1},
        {"structured_outputs": {"regex": "[a-z ]{20}"}},
    ],
    ids=["greedy", "seeded", "logprobs", "stop", "choices", "grammar"],
)
def test_answers_are_the_same(
    served: WorkerProcess, guessing: WorkerProcess, options: dict[str, Any]
) -> None:
    ours, theirs = complete(guessing, **options), complete(served, **options)
    assert ours["choices"] == theirs["choices"]
    assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]


def test_streams_are_cut_the_same(served: WorkerProcess, guessing: WorkerProcess) -> None:
    def pieces(worker: WorkerProcess) -> list[str]:
        with OpenAI(base_url=f"{worker.url}/v1", api_key="none") as client:
            chunks = client.completions.create(
                model=NAME, prompt=TEXT, temperature=0, max_tokens=48, stream=True
            )
            return [chunk.choices[0].text for chunk in chunks]

    assert pieces(guessing) == pieces(served)


def test_a_stream_goes_on_at_one_that_guesses(
    served: WorkerProcess, guessing: WorkerProcess
) -> None:
    body = {"model": NAME, "prompt": TEXT, "seed": 3, "max_tokens": 24, "stream": True}

    def stream(worker: WorkerProcess, **resume: Any) -> bytes:
        url = f"{worker.url}/v1/completions"
        return httpx.post(url, json={**body, **resume}, headers={JOURNAL: "1"}, timeout=60).content

    whole = stream(served)
    ends = [i + 2 for i in range(len(whole)) if whole[i : i + 2] == b"\n\n"][:-1]
    for cut in ends[::5]:
        resume = parse(whole[:cut]).resume
        assert resume is not None
        assert whole[:cut] + stream(guessing, **{FIELD: resume.model_dump()}) == whole


def test_metrics_tell_what_was_guessed_and_what_was_right(guessing: WorkerProcess) -> None:
    def counted() -> list[float]:
        names = ("drafts", "draft_tokens", "accepted_tokens", "accepted_tokens_per_pos")
        return [guessing.metric(f"vllm:spec_decode_num_{name}_total") for name in names]

    before = counted()
    tokens = complete(guessing, ignore_eos=True)["usage"]["completion_tokens"]
    drafts, guessed, right, by_place = (
        now - then for now, then in zip(counted(), before, strict=True)
    )
    assert 0 < drafts <= tokens
    assert drafts < guessed <= 5 * drafts
    assert 0 < right <= guessed
    assert by_place == right
