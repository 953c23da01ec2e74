"""Other routers in front of the same workers, each in an environment of its own."""

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from peer import python_of

PEERS: Final = ("vllm-router", "litellm")
PLAIN: Final = ("litellm",)
"""Asked for chats with one answer only: undisturbed, it spoils streams of others."""
TOLD: Final = ("vllm-router",)
"""Have an API by which workers come and go."""
NAME: Final = "pydoc"


@dataclass
class Router:
    """A router that runs."""

    name: str
    url: str

    async def listening(self) -> bool:
        """Return whether a request comes through."""
        body = {"model": NAME, "prompt": "hello", "max_tokens": 1}
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(f"{self.url}/v1/completions", json=body, timeout=10)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def add(self, worker: str) -> None:
        """Tell it of a worker, where it can be told."""
        await self._tell("add_worker", worker)

    async def remove(self, worker: str) -> None:
        """Tell it that a worker leaves, where it can be told."""
        await self._tell("remove_worker", worker)

    async def _tell(self, action: str, worker: str) -> None:
        if self.name in TOLD:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                answer = await client.post(f"{self.url}/{action}", params={"url": worker})
                answer.raise_for_status()


@contextlib.contextmanager
def router(name: str, backends: Sequence[str], folder: Path) -> Iterator[Router]:
    """Start a router, installed where that has not been done, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    programs = Path(python_of(name)).parent
    command = {"vllm-router": _vllm_router, "litellm": _litellm}[name](
        programs, backends, folder, port
    )
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it is asked from here only
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield Router(name, f"http://127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


def _vllm_router(
    programs: Path, backends: Sequence[str], folder: Path, port: int
) -> list[str | Path]:
    del folder
    options = ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    return [programs / "vllm-router", *options, "--worker-urls", *backends]


def _litellm(programs: Path, backends: Sequence[str], folder: Path, port: int) -> list[str | Path]:
    models = [
        {
            "model_name": NAME,
            "litellm_params": {
                "model": f"hosted_vllm/{NAME}",
                "api_base": f"{url}/v1",
                "api_key": "none",
            },
        }
        for url in backends
    ]
    settings = {"num_retries": 2, "routing_strategy": "simple-shuffle"}
    path = folder / "litellm.json"
    path.write_text(json.dumps({"model_list": models, "router_settings": settings}))
    return [programs / "litellm", "--config", path, "--port", str(port), "--host", "127.0.0.1"]
