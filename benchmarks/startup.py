"""How long until the first token: from nothing running to a streamed answer.

Two cases, both with the example model: `worker` is a worker process alone, `up` the whole of
`penstock up examples/quickstart.yaml` (gateway and two workers) and a chat request through it.
For people on standard error, one JSON object per line on standard output.

    python benchmarks/startup.py [--quick]
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LIMIT = {"worker": 3.0, "up": 15.0}
"""Seconds that Penstock promises: the cold start of scale-from-zero, and of a first look."""


def main() -> None:
    """Measure both cases and print the median of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each instead of five")
    runs = 1 if parser.parse_args().quick else 5
    for case, measure in (("worker", worker), ("up", up)):
        times = [measure() for _ in range(runs)]
        sys.stderr.write(f"{case}: {', '.join(f'{t:.2f}' for t in times)} s to first token\n")
        print(json.dumps(line(case, statistics.median(times))), flush=True)


def worker() -> float:
    """Return the seconds from exec of a worker to its first token."""
    port = free_port()
    command = [BIN / "penstock-worker", "--model", ROOT / "examples" / "model"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--served-model-name", "pydoc", "--port", str(port), "--log-level", "error"]
    ) as process:
        try:
            return first_token(f"http://127.0.0.1:{port}", began, lambda: process.poll() is None)
        finally:
            process.terminate()


def up() -> float:
    """Return the seconds from `penstock up` to the first token through the gateway."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as home:
        environment = {**os.environ, "PENSTOCK_HOME": home}
        manifest = ROOT / "examples" / "quickstart.yaml"
        began = time.monotonic()
        try:
            subprocess.run(
                [BIN / "penstock", "up", manifest, "--detach", "--port", str(port)],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            return first_token(f"http://127.0.0.1:{port}", began, lambda: True)
        finally:
            subprocess.run(
                [BIN / "penstock", "down"],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )


def first_token(url: str, began: float, alive: Callable[[], bool]) -> float:
    """Ask until a streamed token comes; return the seconds since `began`."""
    body = {
        "model": "pydoc",
        "messages": [{"role": "user", "content": "What is a list?"}],
        "stream": True,
        "max_tokens": 8,
    }
    while time.monotonic() - began < 300 and alive():
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                for data in answer.iter_lines():
                    if answer.status_code == 200 and data.startswith("data: {"):
                        return time.monotonic() - began
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise SystemExit("no token came")


def line(case: str, seconds: float) -> dict[str, object]:
    """Return the result as every benchmark prints it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "benchmark": "startup",
        "metric": "seconds_to_first_token",
        "case": case,
        "unit": "s",
        "ours": round(seconds, 3),
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "limit": LIMIT[case],
        "commit": commit,
        "machine": f"{os.cpu_count()} x {cpu()}",
    }


def cpu() -> str:
    """Return the processor's name."""
    for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if text.startswith("model name"):
            return text.split(":")[1].strip()
    return platform.machine()


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
