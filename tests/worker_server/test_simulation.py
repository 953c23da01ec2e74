"""A simulated worker: everything real but the computing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from ports import free_ports
from waiting import PATIENCE
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse

COMPLETIONS = "/v1/completions"
STEP = 0.01


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("sim") / "log"
    with worker(log, "--runner", "sim", "--sim-cost", f"step={STEP},prefill_token=1e-4") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


def complete(found: WorkerProcess, **options: Any) -> dict[str, Any]:
    body = {"model": NAME, "prompt": "A list", "max_tokens": 8, **options}
    answer = plain_http.post(found.url + COMPLETIONS, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def test_it_loads_no_torch_and_has_no_second_process(simulated: WorkerProcess) -> None:
    pid = simulated.process.pid
    assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""


def test_tokens_are_a_function_of_the_request(simulated: WorkerProcess) -> None:
    assert text(complete(simulated, temperature=0)) == text(complete(simulated, temperature=0))
    seeds = [text(complete(simulated, seed=seed)) for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]
    choices = complete(simulated, seed=1, n=2)["choices"]
    assert choices[0]["text"] != choices[1]["text"]


def test_answers_have_the_length_that_was_asked_for(simulated: WorkerProcess) -> None:
    answer = complete(simulated, max_tokens=300)
    assert answer["usage"]["completion_tokens"] == 300
    assert answer["choices"][0]["finish_reason"] == "length"


def test_steps_take_their_time(simulated: WorkerProcess) -> None:
    began = time.monotonic()
    complete(simulated, prompt=[7] * 500, max_tokens=10)
    assert time.monotonic() - began >= 10 * STEP + 500e-4


def test_a_prefix_that_is_cached_takes_no_time(simulated: WorkerProcess) -> None:
    prompt = [11] * 321
    assert complete(simulated, prompt=prompt)["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 0
    }
    before = simulated.metric("penstock_worker_step_tokens_total", kind="prefill")
    again = complete(simulated, prompt=prompt)["usage"]["prompt_tokens_details"]
    assert again == {"cached_tokens": 320}
    assert simulated.metric("penstock_worker_step_tokens_total", kind="prefill") == before + 1


def test_its_streams_can_be_resumed(simulated: WorkerProcess) -> None:
    body = {"model": NAME, "prompt": "A list", "max_tokens": 12, "stream": True, "seed": 5}
    journal = {JOURNAL: "1"}
    whole = plain_http.post(simulated.url + COMPLETIONS, json=body, headers=journal).content
    cut = whole.find(b"\n\n", len(whole) // 2) + 2
    resume = parse(whole[:cut]).resume
    assert resume is not None
    body[FIELD] = resume.model_dump()
    rest = plain_http.post(simulated.url + COMPLETIONS, json=body, headers=journal).content
    assert whole[:cut] + rest == whole


def test_the_cost_is_what_it_tells(simulated: WorkerProcess) -> None:
    name = "penstock_worker_step_cost_seconds"
    assert simulated.metric(name, term="step") == STEP
    assert simulated.metric(name, term="kv_token") == 0


@pytest.mark.parametrize(
    ("cost", "complaint"),
    [("step=fast", "'fast' is not a number"), ("steps=1", "'steps' is none of"), ("step=-1", "-1")],
)
def test_a_wrong_cost_is_named(cost: str, complaint: str) -> None:
    command = [sys.executable, "-m", "penstock_worker.simulation.fleet", "1", "1"]
    flags = ["--model", str(EXAMPLE_MODEL), "--sim-cost", cost]
    found = subprocess.run(command + flags, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert complaint in found.stderr


def test_a_fleet_starts_and_ends_together() -> None:
    port = free_ports(3)
    command = [sys.executable, "-m", "penstock_worker.simulation.fleet", "3", str(port)]
    flags = ["--model", str(EXAMPLE_MODEL), "--served-model-name", NAME]
    process = subprocess.Popen(command + flags)
    try:
        for number in range(3):
            eventually(lambda n=number: answers(port + n), "the worker answers")  # type: ignore[misc]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert not any(answers(port + number) for number in range(3))
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        return plain_http.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False
