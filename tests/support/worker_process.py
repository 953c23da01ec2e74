"""A real `penstock-worker` on a free port, for tests that talk to it over HTTP."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import plain_http
from ports import free_port
from waiting import PATIENCE

from penstock_contract.worker_token import ENVIRONMENT

COMMAND = Path(sys.executable).parent / "penstock-worker"
EXAMPLE_MODEL = Path(__file__).parents[2] / "examples" / "model"
NAME = "pydoc"
ALIAS = "penstock/pydoc"


class WorkerProcess:
    """The process, where it listens, and what it measures."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self.url = f"http://127.0.0.1:{port}"

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that carry these labels."""
        total = 0.0
        for line in plain_http.get(f"{self.url}/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    def is_idle(self) -> bool:
        """Nothing runs and no block belongs to a request."""
        running = self.metric("vllm:num_requests_running")
        return running == 0 and self.metric("penstock_worker_kv_blocks", state="used") == 0

    def health(self) -> tuple[int, str]:
        """Return the status and state of /health; (0, "") when nobody answers yet."""
        ended = self.process.poll()
        assert ended is None, f"it has ended with {ended}: {self.log.read_text()}"
        try:
            answer = plain_http.get(f"{self.url}/health")
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.json()["status"]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Return the exit status."""
        return self.process.wait(timeout=PATIENCE)


@contextlib.contextmanager
def worker(
    log: Path, *arguments: str, model: Path = EXAMPLE_MODEL, token: str = ""
) -> Iterator[WorkerProcess]:
    """Start a worker without waiting until it is ready; its standard error goes to `log`."""
    port = free_port()
    names = ["--served-model-name", NAME, "--served-model-name", ALIAS]
    command = [str(COMMAND), "--model", str(model), *names, "--port", str(port), *arguments]
    command += ["--threads", "1"]
    with log.open("w") as stderr:
        environment = {**os.environ, ENVIRONMENT: token}
        process = subprocess.Popen(command, stderr=stderr, text=True, env=environment)
    try:
        yield WorkerProcess(process, port, log)
    finally:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until a condition holds; fail by name when it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)
