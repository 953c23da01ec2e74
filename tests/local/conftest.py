"""The `penstock` command as a user runs it: a real process with a state folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from penstock_operator.local.home import Home
from penstock_operator.local.ownership import Identity

ROOT = Path(__file__).parents[2]
PENSTOCK = Path(sys.executable).with_name("penstock")


class Machine:
    """One state folder and the commands that use it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = Home(home)
        self.command = PENSTOCK
        self.environment = {**os.environ, "PENSTOCK_HOME": str(home)}
        self.port = free_port()
        self.seen: set[Identity] = set()

    def run(self, *arguments: object, code: int = 0, **options: Any) -> str:
        """Run a command, check its exit code, return what it printed (errors when it failed)."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [PENSTOCK, *map(str, arguments)],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=280,
            check=False,
            **options,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def up(self, file: Path) -> str:
        """Start detached; return the progress."""
        return self.run("up", file, "--detach", "--port", self.port, "--timeout", "240s")

    def status(self) -> dict[str, Any]:
        """Return `get -o json`, and remember every process that it names."""
        found: dict[str, Any] = json.loads(self.run("get", "-o", "json"))
        pids = [found["gateway"]["pid"], *(worker["pid"] for worker in self._workers(found))]
        self.seen |= {identity for pid in pids if pid and (identity := Identity.of(pid))}
        return found

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers of all deployments."""
        return self._workers(self.status())

    def ready(self) -> list[str]:
        """Return the ids of the workers that serve."""
        return [worker["id"] for worker in self.workers() if worker["state"] == "Ready"]

    def pool(self) -> dict[str, Any]:
        """Return the status of the first pool."""
        return dict(self.status()["items"][0]["status"]["pools"][0])

    @staticmethod
    def _workers(status: dict[str, Any]) -> list[dict[str, Any]]:
        return [worker for item in status["items"] for worker in item["workers"]]

    @staticmethod
    def eventually(condition: Callable[[], bool], what: str, patience: float = 200.0) -> None:
        """Wait until a condition holds; fail by name when it never does."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            time.sleep(0.1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which nothing runs, before and after."""
    found = Machine(tmp_path / "home")
    yield found
    subprocess.run([PENSTOCK, "down"], env=found.environment, capture_output=True, check=False)
    assert not [identity for identity in found.seen if identity.alive]


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write a manifest for the example model, with changes; return its path."""

    def write(text: str | None = None, *, replicas: int = 1, engine: str = "{}") -> Path:
        path = tmp_path / "manifest.yaml"
        model = ROOT / "examples" / "model"
        path.write_text(
            text
            or f"""\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: small}}
spec:
  model: {{uri: "file://{model}", name: pydoc}}
  engine: {engine}
  pools:
  - {{name: default, replicas: {replicas}, resources: {{limits: {{cpu: 1}}}}}}
"""
        )
        return path

    return write
