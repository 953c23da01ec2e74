"""What a KV tier on a disk gains when prompts share more documents than memory holds.

A worker (random Llama of 57M parameters in float32, one compute thread) answers `--requests`
questions, each behind one of `--documents` documents of `--tokens` tokens, some of which are asked
about more often than others (Zipf, exponent 0.8). Its memory holds `--held` of them. `--clients`
ask at a time, one question after the other. The same questions are asked of a worker without a
tier, of one with a tier that holds all documents, of one whose tier holds half of them, and of one
whose memory holds all. Before that, each document was asked about once, and that is not counted.

Prints JSON lines: `ttft_seconds`, `requests_per_second` and `cached_share` of prompt tokens, peer =
the worker without a tier; and what was written and loaded. The disk is that of `--folder`; what was
written a short time ago is likely to be in the system's page cache yet, and is read from there.

    python benchmarks/tiers.py [--documents 64] [--held 16] [--clients 4] [--folder /mnt] [--quick]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from model import HEAD_DIM, KV_HEADS, LAYERS, VOCAB, make_model
from peer import CACHE
from report import line, tell

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from worker_process import NAME, WorkerProcess, eventually, worker

BLOCK = 16
TOKEN_BYTES = LAYERS * 2 * KV_HEADS * HEAD_DIM * 4
FILE_BYTES = TOKEN_BYTES * BLOCK + 4096
QUESTION, ANSWER = 32, 16
"""Tokens."""
SKEW = 0.8
STORED = "penstock_worker_kv_tier_stored_bytes_total"
LOADED = "penstock_worker_kv_tier_loaded_bytes_total"
SPENT = "penstock_worker_kv_tier_load_seconds_total"
CACHED = "vllm:prompt_tokens_cached_total"
PROMPTS = "vllm:prompt_tokens_total"


@dataclass
class Run:
    """What clients of one worker saw."""

    first_tokens: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cached: float = 0.0
    """Of prompt tokens."""
    stored: float = 0.0
    """Bytes, from the start."""
    loaded: float = 0.0
    load_seconds: float = 0.0
    load_time: float = 0.0
    """From the worker's start until it served, in seconds."""


def main() -> None:
    """Measure the workers one after the other, and print."""
    options = _options()
    per_document = -(-options.tokens // BLOCK)
    room = options.documents * per_document
    held = (options.held + options.clients) * (per_document + 4) * BLOCK * TOKEN_BYTES
    everything = (options.documents + options.clients) * (per_document + 4) * BLOCK * TOKEN_BYTES
    cases = {
        "no tier": (held, 0),
        "tier for all": (held, 2 * room * FILE_BYTES),
        "tier for half": (held, room * FILE_BYTES // 2),
        "memory for all": (everything, 0),
    }
    runs = {name: _measured(options, *sizes) for name, sizes in cases.items()}
    for name, run in runs.items():
        _tell(options, name, run, runs["no tier"])


def _measured(options: argparse.Namespace, memory: int, capacity: int) -> Run:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        longest = options.tokens + QUESTION + ANSWER + BLOCK
        flags = ["--kv-cache-memory", str(memory), "--max-model-len", str(longest)]
        if capacity:
            flags += ["--kv-tier-disk", f"{folder}/kv", "--kv-tier-disk-capacity", str(capacity)]
        began = time.perf_counter()
        model = make_model(CACHE / "llama-57m")
        with worker(Path(folder) / "log", *flags, model=model) as served:
            eventually(lambda: served.health() == (200, "ok"), "the worker is ready")
            ready = time.perf_counter() - began
            run = asyncio.run(_run(served, options))
        run.load_time = ready
        return run


async def _run(served: WorkerProcess, options: argparse.Namespace) -> Run:
    draw = random.Random(7)
    documents = [
        [draw.randrange(3, VOCAB) for _ in range(options.tokens)] for _ in range(options.documents)
    ]
    weights = [1 / (rank + 1) ** SKEW for rank in range(options.documents)]
    asked = draw.choices(documents, weights, k=options.requests)
    run = Run()
    async with httpx.AsyncClient(base_url=served.url, timeout=120) as client:
        await _ask_all(client, documents, options.clients, draw)
        before = served.metric(CACHED), served.metric(PROMPTS)
        began = time.perf_counter()
        run.first_tokens = await _ask_all(client, asked, options.clients, draw)
        run.seconds = time.perf_counter() - began
    cached, prompts = served.metric(CACHED) - before[0], served.metric(PROMPTS) - before[1]
    run.cached = cached / prompts
    run.stored, run.loaded = served.metric(STORED), served.metric(LOADED)
    run.load_seconds = served.metric(SPENT)
    return run


async def _ask_all(
    client: httpx.AsyncClient, documents: list[list[int]], clients: int, draw: random.Random
) -> list[float]:
    """Ask a question about each, some at a time; return the seconds to the first tokens."""
    waiting = [
        [*document, *(draw.randrange(3, VOCAB) for _ in range(QUESTION))]
        for document in reversed(documents)
    ]
    found: list[float] = []

    async def one_client() -> None:
        while waiting:
            prompt, began = waiting.pop(), time.perf_counter()
            arrived = [now async for now in _tokens(client, prompt)]
            found.append(arrived[0] - began)

    await asyncio.gather(*(one_client() for _ in range(clients)))
    return found


async def _tokens(client: httpx.AsyncClient, prompt: list[int]) -> AsyncIterator[float]:
    """Yield when each token came."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": ANSWER}
    body |= {"ignore_eos": True, "stream": True, "temperature": 0}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for text in answer.aiter_lines():
            if text.startswith("data: {"):
                yield time.perf_counter()


def _tell(options: argparse.Namespace, name: str, run: Run, without: Run) -> None:
    case = (
        f"{name}, {options.documents} documents of {options.tokens} tokens, {options.held} in "
        f"memory, {options.clients} clients"
    )
    ours, theirs = run.first_tokens, without.first_tokens
    more: dict[str, Any] = {
        "stored_mb": round(run.stored / 1e6, 1),
        "loaded_mb": round(run.loaded / 1e6, 1),
        "load_mb_per_second": round(run.loaded / run.load_seconds / 1e6) if run.loaded else None,
        "start_seconds": round(run.load_time, 2),
    }
    rows = [
        ("ttft_seconds", f"p50, {case}", "s", median(ours), median(theirs)),
        ("ttft_seconds", f"p90, {case}", "s", _p90(ours), _p90(theirs)),
        (
            *("requests_per_second", case, "1/s"),
            len(ours) / run.seconds,
            len(theirs) / without.seconds,
        ),
        ("cached_share", case, "1", run.cached, without.cached),
    ]
    for metric, what, unit, value, other in rows:
        alone = run is without
        peer, peer_value = (None, None) if alone else ("no tier", other)
        figure = line("tiers", metric, what, unit, value, peer=peer, peer_value=peer_value, **more)
        tell(figure, keep=not options.quick)


def _p90(values: list[float]) -> float:
    return quantiles(values, n=10)[-1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024, help="of each document")
    parser.add_argument("--held", type=int, default=16, help="documents that memory holds")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--folder", help="on the disk to measure (default: the temporary one)")
    parser.add_argument("--quick", action="store_true", help="a quarter of everything, or less")
    options = parser.parse_args()
    if options.quick:
        options.documents //= 4
        options.held //= 4
        options.tokens //= 2
        options.requests //= 8
        options.clients = max(1, options.clients // 2)
    return options


if __name__ == "__main__":
    main()
