"""Batches on this machine: nothing is to be configured, and nothing is lost by `penstock down`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_http
import pytest

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "examples" / "batch.py"


def test_the_example_works_and_what_was_stored_outlives_the_runtime(
    machine: Any, manifest: Callable[..., Path]
) -> None:
    path = manifest()
    machine.up(path)
    endpoint = f"http://127.0.0.1:{machine.port}/v1"

    def files() -> list[str]:
        answer = plain_http.get(f"{endpoint}/files")
        return [found["filename"] for found in answer.json()["data"]] if answer.is_success else []

    def takes_batches() -> bool:
        return plain_http.get(f"{endpoint}/files").status_code == 200

    machine.eventually(takes_batches, "the batch service is there")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "What is a list?", "What is a module?"],
        env={**os.environ, "OPENAI_BASE_URL": endpoint},
        text=True,
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    asked, answer, *_ = done.stdout.splitlines()
    assert asked == "What is a list?"
    assert len(answer) > 10
    assert "What is a module?" in done.stdout
    stored = files()
    assert [name.rpartition("_")[2] for name in stored] == ["output.jsonl", "questions.jsonl"]

    machine.run("down")
    machine.up(path)
    machine.eventually(lambda: files() == stored, "the files are there again")
    assert stored
