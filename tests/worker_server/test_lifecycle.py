"""From start to end of the process: loading, draining, a dead engine, bad flags."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import plain_http
import pytest
from fake_engine import FakeEngineClient
from stream_auditor import audit, record
from waiting import PATIENCE
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

CHAT = "/v1/chat/completions"


def chat(**options: Any) -> dict[str, Any]:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": "Tell me everything."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        **options,
    }


def become_ready(found: WorkerProcess) -> None:
    eventually(lambda: found.health() == (200, "ok"), "the worker is ready")


def engine_of(found: WorkerProcess) -> int:
    """Return the process id of a worker's engine, its only child."""
    pid = found.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (engine,) = (int(child) for child in children)
    return engine


def test_the_server_process_does_not_import_torch() -> None:
    program = "import sys, penstock_worker.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_server_runs_on_uvloop(served: WorkerProcess) -> None:
    assert "uvloop" in Path(f"/proc/{served.process.pid}/maps").read_text()


@pytest.mark.anyio
async def test_a_worker_stopped_while_loading_stops_quietly() -> None:
    client = FakeEngineClient()
    await client.start()
    waiting = asyncio.ensure_future(client.ready)
    waiting.cancel()
    client.engine.ready(vocab_size=8)
    client.engine.die()
    await client.stop()


def test_it_answers_while_it_loads(tmp_path: Path) -> None:
    with worker(tmp_path / "log") as found:
        eventually(lambda: found.health() != (0, ""), "somebody answers")
        seen = {found.health()}
        if (503, "loading") in seen:  # the engine takes seconds, the server a fraction of one
            refused = plain_http.post(found.url + CHAT, json=chat())
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
        become_ready(found)


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_streams_finish_and_then_ends_with_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    with worker(tmp_path / "log") as found:
        await asyncio.to_thread(become_ready, found)
        first = asyncio.Event()
        payload = chat(max_tokens=400)
        reading = asyncio.create_task(record(found.url, CHAT, payload, first_piece=first))
        await asyncio.wait_for(first.wait(), PATIENCE)
        found.send(number)
        verdict = audit(await reading, include_usage=True)
        assert (verdict.violations, verdict.outcome) == ([], "complete")
        assert verdict.usage is not None
        assert verdict.usage["completion_tokens"] == 400
        assert await asyncio.to_thread(found.wait) == 0


@pytest.mark.anyio
async def test_what_outlives_the_drain_timeout_ends_with_an_error(tmp_path: Path) -> None:
    with worker(tmp_path / "log", "--drain-timeout", "10ms") as found:
        await asyncio.to_thread(become_ready, found)
        first = asyncio.Event()
        payload = chat(max_tokens=900, n=32)  # seconds of work
        reading = asyncio.create_task(record(found.url, CHAT, payload, first_piece=first))
        await asyncio.wait_for(first.wait(), PATIENCE)
        found.send(signal.SIGTERM)
        assert audit(await reading, include_usage=True, choices=32).outcome == "error"


@pytest.mark.anyio
async def test_when_the_engine_dies_streams_end_with_an_error_and_the_process_with_1(
    tmp_path: Path,
) -> None:
    with worker(tmp_path / "log") as found:
        await asyncio.to_thread(become_ready, found)
        first = asyncio.Event()
        payload = chat(max_tokens=900, n=32)  # seconds of work
        reading = asyncio.create_task(record(found.url, CHAT, payload, first_piece=first))
        await asyncio.wait_for(first.wait(), PATIENCE)
        engine = await asyncio.to_thread(engine_of, found)
        os.kill(engine, signal.SIGKILL)
        verdict = audit(await reading, include_usage=True, choices=32)
        assert (verdict.violations, verdict.outcome) == ([], "error")
        assert await asyncio.to_thread(found.wait) == 1
    assert "the engine died" in (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def copied_model(folder: Path, *, without: str = "", **config: Any) -> Path:
    """Copy the example model, less one file, with other configuration."""
    folder.mkdir()
    files = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    for name in (*files, "model.safetensors"):
        if name != without:
            shutil.copy(EXAMPLE_MODEL / name, folder)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def complaint(log: Path, model: Path, *arguments: str) -> tuple[int, str]:
    """Return the exit status and standard error of a worker that cannot start."""
    with worker(log, *arguments, model=model) as found:
        status = found.wait()
    return status, log.read_text()


def test_a_folder_that_is_not_there_is_named_with_its_flag(tmp_path: Path) -> None:
    status, said = complaint(tmp_path / "log", tmp_path / "nowhere")
    assert status == 2
    assert len(said.splitlines()) == 1
    assert "--model" in said
    assert "nowhere" in said


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_missing_file_of_the_model_is_named(tmp_path: Path, missing: str) -> None:
    status, said = complaint(tmp_path / "log", copied_model(tmp_path / "m", without=missing))
    assert status == 2
    assert len(said.splitlines()) == 1
    assert "--model" in said
    assert missing in said


def test_another_architecture_is_refused_with_those_that_run(tmp_path: Path) -> None:
    model = copied_model(tmp_path / "m", architectures=["MPNetModel"])
    status, said = complaint(tmp_path / "log", model)
    assert status == 2
    assert "MPNetModel" in said
    assert "LlamaForCausalLM" in said


def test_missing_weights_are_named_without_a_traceback(tmp_path: Path) -> None:
    model = copied_model(tmp_path / "m", without="model.safetensors")
    status, said = complaint(tmp_path / "log", model)
    assert status != 0
    assert "safetensors" in said
    assert "Traceback" not in said


def test_missing_weights_are_a_bad_model_flag(tmp_path: Path) -> None:
    model = copied_model(tmp_path / "m", without="model.safetensors")
    status, said = complaint(tmp_path / "log", model)
    assert status == 2
    assert "--model" in said


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--kv-cache-memory", "8 potatoes"), ("--drain-timeout", "soon"), ("--max-model-len", "0")],
)
def test_a_bad_flag_is_named(tmp_path: Path, flag: str, value: str) -> None:
    status, said = complaint(tmp_path / "log", EXAMPLE_MODEL, flag, value)
    assert status == 2
    assert flag in said


def test_a_cache_too_small_for_one_context_is_refused_with_the_fix(tmp_path: Path) -> None:
    status, said = complaint(tmp_path / "log", EXAMPLE_MODEL, "--kv-cache-memory", "1Ki")
    assert status == 1
    assert "--kv-cache-memory" in said
    assert "--max-model-len" in said


def test_a_taken_port_is_refused(tmp_path: Path, served: WorkerProcess) -> None:
    port = served.url.rpartition(":")[2]
    status, said = complaint(tmp_path / "log", EXAMPLE_MODEL, "--port", port)
    assert status == 2
    assert port in said
