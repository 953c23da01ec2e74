"""The agent beside an engine, as a process of its own: started, and spoken to as operators do."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import plain_http
from ports import free_port
from waiting import eventually
from worker_process import COMMAND

from penstock_contract.worker_token import ENVIRONMENT

TOKEN = "a token of the tests"
KEY = {"authorization": f"Bearer {TOKEN}"}


class Agent:
    """The process, and how it is spoken to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def tell(self, *names: str, announced: list[str] | None = None, **revisions: str) -> Any:
        wanted = [
            {
                "name": name,
                "uri": "hf://org/model",
                "revision": revisions.get(name, "main"),
                "folder": f"hf/org/{name}@{revisions.get(name, 'main')}",
            }
            for name in names
        ]
        body = {"adapters": wanted, "announced": announced}
        answer = plain_http.put(f"{self.url}/adapters", json=body, headers=KEY)
        answer.raise_for_status()
        return answer.json()

    def report(self) -> Any:
        return plain_http.get(f"{self.url}/adapters", headers=KEY).json()

    def states(self) -> dict[str, str]:
        return {name: one["state"] for name, one in self.report()["adapters"].items()}

    def ready(self) -> bool:
        return plain_http.get(f"{self.url}/ready").status_code == 200


@contextmanager
def agent(
    engine: str,
    folder: Path,
    hub: str,
    *flags: str,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = TOKEN,
) -> Iterator[Agent]:
    """Start an agent and wait until it answers.

    Args:
        engine: URL of what it brings adapters to.
        folder: its downloads.
        hub: URL of the Hugging Face Hub.
        flags: more of its flags.
        host: where it listens.
        port: where it listens; 0: on a free one.
        token: that it and its engine ask for; empty: none.
    """
    port = port or free_port()
    command = [str(COMMAND), "adapters", "--engine", engine, "--into", str(folder)]
    command += ["--host", host, "--port", str(port)]
    environment = {**os.environ, ENVIRONMENT: token, "HF_ENDPOINT": hub}
    process = subprocess.Popen([*command, "--evict", *flags], env=environment)
    found = Agent(f"http://{host}:{port}", folder)

    def answers() -> bool:
        assert process.poll() is None, "the agent has ended"
        try:
            return bool(found.report())
        except httpx.TransportError:
            return False

    try:
        eventually(answers, "the agent answers")
        yield found
    finally:
        process.terminate()
        process.wait()
