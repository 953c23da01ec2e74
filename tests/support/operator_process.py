"""The operator as users run it: a process of its own, told everything by its flags."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import plain_http
from ports import free_port
from waiting import PATIENCE, eventually

COMMAND = Path(sys.executable).parent / "penstock-operator"


class OperatorProcess:
    """One `penstock-operator`, restricted to one namespace; it can be killed and started again."""

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        log: Path,
        *options: str,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        self.port = free_port()
        self._environment = {**os.environ, **(environment or {}), "KUBECONFIG": str(kubeconfig)}
        self._command = [
            str(COMMAND),
            *("--namespace", namespace),
            *("--system-namespace", namespace),
            *("--lease-name", "penstock-operator"),
            *("--metrics-port", str(self.port)),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "OperatorProcess":
        """Start it, without waiting for anything."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __enter__(self) -> "OperatorProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a lost node would: at once, with no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """End it as Kubernetes does; return its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def pause(self) -> None:
        """Stop it in its tracks, its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        eventually(self._ready, f"operator ready, see {self.log}", every=0.05)

    def metrics(self) -> str:
        """Return its metrics page."""
        return plain_http.get(f"http://127.0.0.1:{self.port}/metrics").raise_for_status().text

    def _ready(self) -> bool:
        assert self.alive, f"the operator ended:\n{self.tail()}"
        try:
            return plain_http.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def tail(self, lines: int = 25) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(line[:240] for line in text.splitlines()[-lines:])
