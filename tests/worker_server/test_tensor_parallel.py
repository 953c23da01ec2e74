"""A worker of two ranks over HTTP: the same answers, and an end that takes all of it along."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import generate, torch_engine
from openai import OpenAI
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_worker.text.tokenizer import Tokenizer

PROMPT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n"


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with worker(tmp_path_factory.mktemp("worker") / "log", "--tensor-parallel-size", "2") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


def answers(url: str) -> list[str]:
    """Return what greedy requests of the official client get: whole, streamed, several choices."""
    asked = {"model": NAME, "prompt": PROMPT, "temperature": 0.0, "max_tokens": 32}
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.completions.create(**asked)  # type: ignore[call-overload]
        stream = client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        streamed = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        two = client.completions.create(**asked, n=2)  # type: ignore[call-overload]
        return [whole.choices[0].text, streamed, *(choice.text for choice in two.choices)]


def test_clients_get_the_answers_of_one_rank(of_two: WorkerProcess, tokenizer: Tokenizer) -> None:
    (tokens,) = generate(
        torch_engine(EXAMPLE_MODEL), [tokenizer.encode(PROMPT, add_special_tokens=True)], 32
    )
    expected = tokenizer.decode(tokens)
    found = answers(of_two.url)
    assert found == [expected] * 4
    assert of_two.metric("vllm:prompt_tokens_total") > 0
    eventually(of_two.is_idle, "all blocks are free again")


def test_a_rank_that_dies_ends_the_worker_which_says_so(of_two: WorkerProcess) -> None:
    engine = _children(of_two.process.pid)[0]
    (rank,) = _children(engine)
    os.kill(rank, signal.SIGKILL)
    assert of_two.wait() == 1
    assert "rank 1 of 2 was ended by SIGKILL" in of_two.log.read_text()
    eventually(lambda: not Path(f"/proc/{engine}").exists(), "the engine has ended with it")


def _children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
