"""Real vLLMs behind `penstock up`, for the tests that ask them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import plain_http
from openai import OpenAI
from tests.e2e.conftest import Stack
from vllm_program import environment

PATIENCE: Final = 500.0
"""Seconds until one of them answers; it loads for a minute or more."""


@contextmanager
def vllm_stack(folder: Path, manifest: str) -> Iterator[Stack]:
    """Yield what serves a manifest, with its files in a folder that is empty or has a model."""
    file, venv = folder / "manifest.yaml", folder / "venv"
    file.write_text(manifest)
    venv.mkdir()
    found = Stack(folder / "home")
    try:
        found.up(file, "--vllm-venv", str(environment(venv)), timeout=PATIENCE)
        yield found
    finally:
        found.run("down", check=False)


@contextmanager
def vllm_client(url: str) -> Iterator[OpenAI]:
    """Yield a client of a gateway or a vLLM that hides no failure by trying again."""
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as found:
        yield found


def engines(pid: int) -> list[int]:
    """Return the processes that compute, of a vLLM server."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if "EngineCore" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def counted(url: str, name: str) -> float:
    """Return what a vLLM has counted."""
    text = plain_http.get(f"{url}/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if f"{name}{{" in line)
