"""`engine.type: VLLM` on this machine: the user's own vLLM, behind the same gateway."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def fake_vllm(venv: Path) -> Path:
    """Make a `vllm` that writes down how it was called, and becomes a worker of ours."""
    program = venv / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    worker = Path(sys.executable).with_name("penstock-worker")
    program.write_text(
        f'#!/bin/sh\necho "$@" > {venv}/called\n'
        f'exec {worker} --model "$2" --host "$4" --port "$6" --served-model-name "$8" --threads 1\n'
    )
    program.chmod(0o755)
    return venv / "called"


def test_a_vllm_of_the_users_own_serves(
    machine: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    called = fake_vllm(tmp_path / "venv")
    path = manifest(engine="{type: VLLM, maxModelLen: 256}")
    machine.run("up", path, "--detach", "--port", machine.port, "--vllm-venv", tmp_path / "venv")
    assert len(machine.ready()) == 1
    words = called.read_text().split()
    assert words[0] == "serve"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--served-model-name") + 1] == "pydoc"
    assert words[words.index("--max-model-len") + 1] == "256"


def test_where_vllm_is_need_not_be_said_again(
    machine: Any, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    fake_vllm(tmp_path / "venv")
    path = manifest(engine="{type: VLLM, maxModelLen: 256}")
    machine.run("up", path, "--detach", "--port", machine.port, "--vllm-venv", tmp_path / "venv")
    assert "Ready" in machine.run("up", path)
