"""Whether pulling a prompt's KV is sooner than computing it again.

Two workers, one compute thread each, one prompt at a time: the time to the first token at the
decode worker when it pulls (after the prefill worker has computed the prompt, which is not part of
it), beside the time when it computes the prompt itself. Rounds alternate. `example` is the example
model, `random-57M` the engine benchmark's.

And what it does to whoever is served meanwhile: the longest pauses (99th percentile) between tokens
of a stream at the decode worker, while prompts arrive there one after another, pulled or computed.

    python benchmarks/handoff.py [--tokens 256,512,960] [--quick]
"""

import argparse
import contextlib
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from model import make_model
from report import ROOT, line, tell

from penstock_contract.handoff import FIELD, PREFILL
from penstock_contract.headers import HANDOFF

WORKER = Path(sys.executable).parent / "penstock-worker"
ROUNDS = 15
PROMPTS = 16
"""That arrive while a stream is read; their leases must last until then."""


@dataclass
class Worker:
    """A worker process, by its address."""

    client: httpx.Client

    def first_token(self, prompt: list[int], params: Any = None) -> tuple[float, dict[str, Any]]:
        """Return the seconds to a single token, and the answer."""
        body = {"model": "m", "prompt": prompt, "max_tokens": 1, "temperature": 0, FIELD: params}
        began = time.perf_counter()
        answer = self.client.post("/v1/completions", json=body, headers={HANDOFF: "1"})
        seconds = time.perf_counter() - began
        return seconds, answer.raise_for_status().json()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(text.split()[-1]) for text in lines if text.startswith(name + "{"))


def main() -> None:
    """Measure both models and print a figure per prompt length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", default="256,512,960", help="prompt lengths")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of fifteen")
    options = parser.parse_args()
    lengths = [int(text) for text in options.tokens.split(",")]
    cache = Path.home() / ".cache" / "penstock" / "benchmarks"
    models = {"example": ROOT / "examples" / "model", "random-57M": make_model(cache / "model")}
    for name, folder in models.items():
        with worker(folder) as prefill, worker(folder) as decode:
            for length in lengths:
                rounds = 3 if options.quick else ROUNDS
                figure = measure(f"{name}-{length}", prefill, decode, length, rounds)
                tell(figure, keep=not options.quick)
            figure = pauses(f"{name}-{lengths[-1]}", prefill, decode, lengths[-1])
            tell(figure, keep=not options.quick)


def measure(case: str, prefill: Worker, decode: Worker, length: int, rounds: int) -> dict[str, Any]:
    """Return the figure of one prompt length; the first round warms up and does not count."""
    draw = random.Random(length)
    computed, pulled, before = [], [], state(decode)
    for _ in range(rounds + 1):
        prompt, other = ([draw.randrange(3, 4000) for _ in range(length)] for _ in range(2))
        params = prefill.first_token(prompt, PREFILL)[1][FIELD]
        pulled.append(decode.first_token(prompt, params)[0])
        computed.append(decode.first_token(other)[0])
    size, seconds = (now - then for now, then in zip(state(decode), before, strict=True))
    return line(
        "handoff",
        "seconds_to_first_token",
        case,
        "s",
        statistics.median(pulled[1:]),
        peer="recompute",
        peer_value=statistics.median(computed[1:]),
        megabytes=round(size / (rounds + 1) / 1e6, 2),
        gigabytes_per_second=round(size / seconds / 1e9, 2),
    )


def pauses(case: str, prefill: Worker, decode: Worker, length: int) -> dict[str, Any]:
    """Return the figure of a stream's pauses; the prompts are computed before it begins."""
    draw = random.Random(length)
    prompts = [[draw.randrange(3, 4000) for _ in range(length)] for _ in range(2 * PROMPTS)]
    leases = [prefill.first_token(prompt, PREFILL)[1][FIELD] for prompt in prompts[:PROMPTS]]
    pulled = disturbed(decode, list(zip(prompts[:PROMPTS], leases, strict=True)))
    computed = disturbed(decode, [(prompt, None) for prompt in prompts[PROMPTS:]])
    return line(
        "handoff",
        "seconds_between_tokens_p99",
        case,
        "s",
        statistics.quantiles(pulled, n=100)[-1],
        peer="recompute",
        peer_value=statistics.quantiles(computed, n=100)[-1],
    )


def disturbed(decode: Worker, prompts: list[tuple[list[int], Any]]) -> list[float]:
    """Return the seconds between the tokens of a stream, while these prompts arrive."""
    gaps: list[float] = []
    begun, over = threading.Event(), threading.Event()

    def read() -> None:
        body = {"model": "m", "prompt": [7] * 8, "max_tokens": 900, "ignore_eos": True}
        with decode.client.stream("POST", "/v1/completions", json={**body, "stream": True}) as s:
            latest = time.perf_counter()
            for text in s.iter_lines():
                if text.startswith("data: "):
                    now = time.perf_counter()
                    gaps.append(now - latest)
                    latest = now
                    begun.set()
                if over.is_set():
                    return

    reading = threading.Thread(target=read)
    reading.start()
    begun.wait()
    gaps.clear()
    for prompt, params in prompts:
        decode.first_token(prompt, params)
    over.set()
    reading.join()
    return gaps


def state(decode: Worker) -> list[float]:
    """Return the bytes that were pulled so far, and the seconds that it took."""
    names = ("pulled_bytes", "pull_seconds")
    return [decode.metric(f"penstock_worker_kv_{name}_total") for name in names]


@contextlib.contextmanager
def worker(folder: Path) -> Iterator[Worker]:
    """Run a worker that hands over, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(WORKER), "--model", str(folder), "--served-model-name", "m"]
    command += ["--port", str(port), "--threads", "1", "--kv-transfer", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--log-level", "error"])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            until_ready(client, process)
            yield Worker(client)
    finally:
        process.terminate()
        process.wait()


def until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the worker serves."""
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.05)
    sys.exit(f"the worker has ended with {process.returncode}")


if __name__ == "__main__":
    main()
