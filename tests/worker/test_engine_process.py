"""The engine as a process: what it says over the socket, and when it ends."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from child_engine import Process
from waiting import PATIENCE

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import (
    Abort,
    AddRequest,
    Batch,
    Failed,
    FinishReason,
    Ready,
    Sampling,
    Stop,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    tiny_models.make("llama-gqa", found)
    return found


@pytest.fixture
def engine(folder: Path) -> Iterator[Process]:
    found = Process(EngineConfig(model=str(folder), threads=1))
    ready = found.event()
    assert isinstance(ready, Ready)
    assert ready.max_model_len == 512
    yield found
    found.close()


def test_requests_come_back_whole(engine: Process) -> None:
    greedy = Sampling(temperature=0.0)
    engine.send(
        *(AddRequest(id=f"r{i}", prompt=[i, 2, 3], max_tokens=5, sampling=greedy) for i in range(4))
    )
    outputs = engine.until_idle(4)
    for i in range(4):
        mine = [o for o in outputs if o.id == f"r{i}"]
        assert sum(len(o.tokens) for o in mine) == 5
        assert mine[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("chosen", [None, "active"])
def test_threads_sleep_while_they_wait_unless_somebody_chose(
    chosen: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    engine = Process(EngineConfig(model=str(folder), threads=1))
    assert isinstance(engine.event(), Ready)
    engine.close()
    assert f"OMP_WAIT_POLICY = '{(chosen or 'passive').upper()}'" in capfd.readouterr().err


def test_an_abort_ends_the_output(engine: Process) -> None:
    engine.send(AddRequest(id="long", prompt=[1], max_tokens=400))
    first = next(e for e in iter(engine.event, None) if isinstance(e, Batch) and e.outputs)
    assert first.outputs[0].id == "long"
    engine.send(Abort(["long"]))
    last = next(
        e
        for e in iter(engine.event, None)
        if isinstance(e, Batch) and not e.stats.running and not e.outputs
    )
    assert last.stats.blocks_used == 0


def test_a_refused_request_says_why(engine: Process) -> None:
    engine.send(AddRequest(id="big", prompt=[1] * 512, max_tokens=1))
    refusal = next(e for e in iter(engine.event, None) if isinstance(e, Batch) and e.outputs)
    assert refusal.outputs[0].finish_reason is FinishReason.ABORT
    assert "511 tokens" in refusal.outputs[0].error


def test_it_ends_when_told(folder: Path) -> None:
    process = Process(EngineConfig(model=str(folder), threads=1))
    process.send(Stop())
    assert process.process.wait(timeout=PATIENCE) == 0
    process.socket.close()


def test_it_never_outlives_its_server(folder: Path) -> None:
    process = Process(EngineConfig(model=str(folder), threads=1))
    assert isinstance(process.event(), Ready)
    process.send(AddRequest(id="long", prompt=[1], max_tokens=500))
    assert process.close() == 0


def test_a_server_that_was_killed_with_unread_output_takes_it_along(folder: Path) -> None:
    process = Process(EngineConfig(model=str(folder), threads=1))
    assert isinstance(process.event(), Ready)
    assert isinstance(process.event(), Batch)
    process.send(Abort(["nobody"]))
    # The answer lies unread in our buffer: closing now resets the connection.
    assert select.select([process.socket], [], [], PATIENCE)[0]
    assert process.close() == 0


def test_a_message_that_nobody_can_read_ends_it_with_a_reason(folder: Path) -> None:
    process = Process(EngineConfig(model=str(folder), threads=1))
    process.socket.sendall(b"\x01\x00\x00\x00\xc1")
    failed = [event for event in iter(process.event, None) if isinstance(event, Failed)]
    assert "Decode" in failed[0].message
    assert process.close() == 1


def test_what_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    process = Process(EngineConfig(model=str(tmp_path)))
    event = process.event()
    assert isinstance(event, Failed)
    assert "config.json" in event.message
    assert process.close() == 1


def test_a_pool_that_is_too_small_names_the_flag(folder: Path) -> None:
    process = Process(EngineConfig(model=str(folder), kv_cache_bytes=4096))
    event = process.event()
    assert isinstance(event, Failed)
    assert "--kv-cache-memory" in event.message
    assert process.close() == 1
