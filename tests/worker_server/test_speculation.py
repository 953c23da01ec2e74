"""A worker that guesses: the same answers, in fewer steps, and metrics that tell what it gained."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from openai import OpenAI
from worker_process import COMMAND, EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse

TEXT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\n" * 3


METHODS = {
    "ngram": ["ngram"],
    # The model is its own draft: it costs as much as it gains, and is always right.
    "draft": ["draft", "--speculative-model", str(EXAMPLE_MODEL)],
    "eagle3": ["eagle3", "--speculative-model", str(EXAMPLE_MODEL / "eagle")],
}


@pytest.fixture(scope="module", params=METHODS)
def guessing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    log: Path = tmp_path_factory.mktemp("worker") / "log"
    flags = ["--speculative", *METHODS[request.param], "--speculative-tokens", "5"]
    with worker(log, *flags, "--no-self-benchmark") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


def complete(served: WorkerProcess, **options: Any) -> Any:
    body = {"model": NAME, "prompt": TEXT, "temperature": 0, "max_tokens": 64, **options}
    answer = plain_http.post(f"{served.url}/v1/completions", json=body)
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
        return plain_http.post(url, json={**body, **resume}, headers={JOURNAL: "1"}).content

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

    before, tokens = counted(), 0

    def since() -> list[float]:
        return [now - then for now, then in zip(counted(), before, strict=True)]

    def one_was_right() -> bool:  # where guesses lose, there are few, and none in some answers
        nonlocal tokens
        tokens += complete(guessing, ignore_eos=True)["usage"]["completion_tokens"]
        return since()[2] > 0

    eventually(one_was_right, "a right guess")
    drafts, guessed, right, by_place = since()
    assert 0 < drafts <= tokens
    assert drafts < guessed <= 5 * drafts
    assert right <= guessed
    assert by_place == right


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--speculative-model: name the folder of the draft's checkpoint"),
        (["--speculative-model", "nowhere"], "config.json"),
        (["--speculative-model", str(EXAMPLE_MODEL), "--tensor-parallel-size", "2"], "use ngram"),
    ],
)
def test_a_draft_that_cannot_be_one_is_refused_by_name(flags: list[str], says: str) -> None:
    command: list[str | Path] = [COMMAND, "--model", EXAMPLE_MODEL, "--port", "0"]
    command += ["--speculative", "draft", *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert found.returncode == 2
    assert "--speculative" in found.stderr
    assert says in found.stderr
