"""A real Penstock: `penstock up` on the quickstart, in a state folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Stack:
    """A running `penstock up` and the commands that talk to it."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "PENSTOCK_HOME": str(home)}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        """Run `penstock` with arguments and return what it said."""
        done = subprocess.run(
            [BIN / "penstock", *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def up(
        self,
        manifest: Path,
        *options: str,
        timeout: float = 280,
    ) -> None:
        """Start it and wait until it is ready."""
        port = str(self.port)
        self.run("up", str(manifest), "--detach", "--port", port, *options, timeout=timeout)

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that `penstock get` reports."""
        items = json.loads(self.run("get", "-o", "json").stdout)["items"]
        return [worker for item in items for worker in item["workers"]]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all workers and the gateway."""
        total = 0.0
        urls = [self.url, *(worker["url"] for worker in self.workers())]
        for url in urls:
            for line in plain_http.get(f"{url}/metrics").text.splitlines():
                series, _, value = line.rpartition(" ")
                wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
                if series.partition("{")[0] == name and wanted:
                    total += float(value)
        return total

    @staticmethod
    def eventually(condition: Callable[[], bool], what: str, patience: float = 200.0) -> None:
        """Wait until a condition holds; fail by name when it never does."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two real workers behind a real gateway, for one test module."""
    found = Stack(tmp_path_factory.mktemp("home"))
    try:
        found.up(ROOT / "examples" / "quickstart.yaml", "--timeout", "240s")
        yield found
    finally:
        found.run("down", check=False)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
