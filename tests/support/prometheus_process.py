"""A real Prometheus on a free port, as `make tools` gets it (or PROMETHEUS names it)."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import plain_http
from ports import free_port
from waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
MISSING = "no prometheus: run `make tools`, or name a binary in PROMETHEUS"
_INSTALLED = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "prometheus"


def binary() -> str | None:
    """Return Prometheus' path; None where there is none."""
    if named := os.environ.get("PROMETHEUS"):
        return named
    return str(_INSTALLED) if _INSTALLED.is_file() else shutil.which("prometheus")


class PrometheusProcess:
    """One that scrapes every second.

    Args:
        folder: for its data.
        jobs: labels and address (host:port) of targets, by job.
    """

    def __init__(self, folder: Path, jobs: dict[str, list[tuple[dict[str, str], str]]]) -> None:
        found = binary()
        assert found is not None, MISSING
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "900ms"},
            "scrape_configs": [
                {
                    "job_name": job,
                    "static_configs": [{"targets": [a], "labels": labels} for labels, a in targets],
                }
                for job, targets in jobs.items()
            ],
        }
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(configuration))  # JSON is YAML
        self._log = (folder / "prometheus.log").open("w")
        self.process = subprocess.Popen(
            [
                found,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stderr=self._log,
        )

    def knows(self, query: str, count: int) -> None:
        """Wait until a query has so many results."""
        eventually(lambda: len(self._ask(query)) == count, f"{count} results of {query}")

    def _ask(self, query: str) -> list[Any]:
        try:
            answer = plain_http.get(f"{self.url}/api/v1/query", params={"query": query})
        except httpx.TransportError:
            return []
        if answer.status_code != httpx.codes.OK:
            return []
        found: list[Any] = answer.json()["data"]["result"]
        return found

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._log.close()
