"""What long prompts do to whoever decodes, with and without a TPOT objective.

A worker (random Llama of 57M parameters, one compute thread) streams to `--streams` clients while
a prompt of `--tokens` tokens arrives every second. Each objective, and none, gets `--seconds`. The
objective goes in the header that the gateway sends by `spec.slo.tpot`. Prints JSON lines: the
streams' `seconds_between_tokens` and the prompts' `ttft_seconds`, peer = without an objective, and
the share of steps that were bounded.

    python benchmarks/stall.py [--objectives 0.05,0.02] [--streams 6] [--tokens 800] [--quick]
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
from model import VOCAB, make_model
from peer import CACHE
from report import line, tell

from penstock_contract.headers import TPOT_OBJECTIVE

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from worker_process import NAME, WorkerProcess, eventually, worker

BETWEEN = 1.0
"""Seconds from prompt to prompt."""
WARM = 2.0
"""Seconds at the beginning that are not counted."""


@dataclass
class Seen:
    """What clients saw, in seconds."""

    gaps: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    bounded: float = 0.0
    """Share of steps whose prompts were cut."""


def main() -> None:
    """Measure without an objective, then with each, and print."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--kv-cache-memory", "1Gi", "--max-model-len", "4096"]
        with worker(Path(folder) / "log", *flags, model=make_model(CACHE / "llama-57m")) as served:
            eventually(lambda: served.health() == (200, "ok"), "the worker is ready")
            runs = {
                objective: asyncio.run(_run(served, options, objective))
                for objective in (None, *options.objectives)
            }
    for objective, seen in runs.items():
        _tell(options, objective, seen, runs[None])


async def _run(served: WorkerProcess, options: argparse.Namespace, objective: float | None) -> Seen:
    seen, steps = Seen(), _steps(served)
    headers = {} if objective is None else {TPOT_OBJECTIVE: str(objective)}
    async with httpx.AsyncClient(base_url=served.url, timeout=120, headers=headers) as client:
        end = time.perf_counter() + WARM + options.seconds
        streams = [
            asyncio.create_task(_stream(client, number, end, seen))
            for number in range(options.streams)
        ]
        draw = random.Random(str(objective))
        prompts = []
        while (now := time.perf_counter()) < end - BETWEEN:
            tokens = [draw.randrange(3, VOCAB) for _ in range(options.tokens)]
            prompts.append(asyncio.create_task(_prompt(client, tokens)))
            await asyncio.sleep(now + BETWEEN - time.perf_counter())
        seen.first_tokens = await asyncio.gather(*prompts)
        await asyncio.gather(*streams)
    bounded, all_steps = (b - a for a, b in zip(steps, _steps(served), strict=True))
    seen.bounded = bounded / all_steps
    return seen


async def _stream(client: httpx.AsyncClient, number: int, end: float, seen: Seen) -> None:
    """Read one answer after the other until the end, and note the gaps between tokens."""
    counted = time.perf_counter() + WARM
    while time.perf_counter() < end:
        latest = 0.0
        async for now in _tokens(client, [3 + number] * 16, 2000):
            if latest > counted:
                seen.gaps.append(now - latest)
            latest = now
            if now > end:
                return


async def _prompt(client: httpx.AsyncClient, tokens: list[int]) -> float:
    began = time.perf_counter()
    arrived = [now async for now in _tokens(client, tokens, 1)]
    return arrived[0] - began


async def _tokens(client: httpx.AsyncClient, prompt: list[int], most: int) -> AsyncIterator[float]:
    """Yield when each token came."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": most, "ignore_eos": True, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for text in answer.aiter_lines():
            if text.startswith("data: {"):
                yield time.perf_counter()


def _steps(served: WorkerProcess) -> tuple[float, float]:
    bounded = served.metric("penstock_worker_bounded_steps_total")
    return bounded, served.metric("penstock_worker_step_seconds_count")


def _tell(options: argparse.Namespace, objective: float | None, seen: Seen, without: Seen) -> None:
    name = "none" if objective is None else f"{objective * 1000:g} ms"
    case = f"{options.streams} streams, {options.tokens} tokens a second, objective {name}"
    rows = [
        ("seconds_between_tokens", "p50", median(seen.gaps), median(without.gaps)),
        ("seconds_between_tokens", "p99", _p99(seen.gaps), _p99(without.gaps)),
        ("ttft_seconds", "p50", median(seen.first_tokens), median(without.first_tokens)),
    ]
    for metric, which, ours, other in rows:
        peer: dict[str, Any] = {} if objective is None else {"peer": "none", "peer_value": other}
        figure = line("stall", metric, f"{which}, {case}", "s", ours, **peer, bounded_steps=None)
        figure |= {"ours": round(ours, 4), "bounded_steps": round(seen.bounded, 3)}
        tell(figure, keep=not options.quick)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[-1]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--objectives",
        type=lambda text: [float(part) for part in text.split(",")],
        default=[0.05, 0.02],
        help="seconds, comma-separated (default: 0.05,0.02)",
    )
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=800, help="of each prompt")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each objective")
    parser.add_argument("--quick", action="store_true", help="ten seconds for each")
    options = parser.parse_args()
    options.seconds = 10.0 if options.quick else options.seconds
    return options


if __name__ == "__main__":
    main()
