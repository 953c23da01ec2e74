"""How true the simulator is: a real worker and a simulated one under the same requests.

    python benchmarks/simulation.py [--trace PATH] [--seconds 600] [--load 0.5] [--quick]

A real worker with the example model gets the first minutes of a trace, open loop: every request at
its time, their lengths made shorter in one proportion so that the model's context holds them, their
number multiplied so that the worker is busy for `load` of its time. The simulator gets the same
arrivals, the service curve that the autoscaler learns from the worker's own metrics meanwhile, and
what serving costs apart from steps (HTTP, tokenising), as requests that came alone just before saw
it. Without --trace a synthetic one is played. Prints JSON lines: percentiles of `ttft_seconds` and
`tpot_seconds`, ours = simulated, peer = real, and `serving_overhead_seconds`.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

import httpx
from report import line, tell

from penstock_contract.step_cost import StepCost
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.exposition import parse
from penstock_operator.autoscaling.learned import Steps
from penstock_operator.autoscaling.scrape import Scrape, ScrapePair
from penstock_operator.autoscaling.steps import new_steps
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.fleet import Fleet
from penstock_operator.simulation.rivals import Fixed
from penstock_operator.simulation.setup import Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate, read, scaled

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from worker_process import NAME, WorkerProcess, eventually, worker

LONGEST = 500
"""Tokens of a request; the example model's context is 512."""
SHAPE = Synthetic(
    rate=40.0, clients=20, burstiness=2.0, swing=0.3, input_mean=120.0, output_mean=80.0, spread=0.6
)
KV_TOKENS = 65_536
ALONE = [Arrival(0.0, 20 + 4 * number, 1) for number in range(50)]
"""Requests that come one after the other; each is one step."""
REHEARSED, TOGETHER = 400, 16
"""Requests before the trace, and how many of them at a time."""


@dataclass
class Timed:
    """What a client saw of one request, in seconds."""

    ttft: float = nan
    tpot: float = nan


def main() -> None:
    """Measure, simulate, print."""
    options = _options()
    wanted = _wanted(options.trace, 60.0 if options.quick else options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        threads = max(1, len(os.sched_getaffinity(0)) - 1)  # one core is left to HTTP and clients
        flags = ["--max-num-batched-tokens", "1024", "--kv-cache-memory", "256Mi"]
        flags += ["--threads", str(threads)]
        with worker(Path(folder) / "log", *flags) as served:
            eventually(lambda: served.health() == (200, "ok"), "the worker is ready")
            opening = _scrape(served)
            alone = asyncio.run(_one_by_one(served, ALONE))
            overhead = _overhead(alone, ScrapePair(_scrape(served), opening))
            asyncio.run(_rehearse(served, wanted[:REHEARSED]))
            trace = scaled(wanted, options.load / _load(wanted, _learned(served, opening)))
            _say(f"{len(trace)} requests in {trace[-1].time:.0f} s, {len(wanted)} of the trace")
            before = _scrape(served)
            began = time.monotonic()
            real = asyncio.run(_replay(served, trace))
            _say(f"served after {time.monotonic() - began:.0f} s")
            curve = _learned(served, before)
    simulated = _simulated(trace, curve, overhead)
    _say(f"{curve}; overhead {overhead * 1000:.1f} ms")
    name = options.trace.name if options.trace else "synthetic"
    case, keep = f"{name}, L = {options.load:g}", not options.quick
    for metric in ("ttft", "tpot"):
        ours = quantiles((getattr(t, metric) for t in simulated), n=100)
        peer = quantiles((getattr(t, metric) for t in real), n=100)
        for percent in (50, 90, 99):
            pair = ours[percent - 1], peer[percent - 1]
            _tell(f"{metric}_seconds", f"p{percent}, {case}", *pair, requests=len(trace), keep=keep)
    _tell("serving_overhead_seconds", case, overhead, None, requests=len(alone), keep=keep)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _tell(
    metric: str, case: str, ours: float, real: float | None, *, requests: int, keep: bool
) -> None:
    figure = line(
        "simulation", metric, case, "s", ours, peer=None if real is None else "the real worker",
        peer_value=real, requests=requests,
    )  # fmt: skip
    exact = {"ours": round(ours, 5), "peer_value": None if real is None else round(real, 5)}
    tell(figure | exact, keep=keep)


def _wanted(path: Path | None, seconds: float) -> list[Arrival]:
    """Return the beginning of a trace with lengths that the model's context holds."""
    shape = replace(SHAPE, seconds=seconds, period=seconds)
    trace = generate(shape) if path is None else read(path)
    found = [arrival for arrival in trace if arrival.time < seconds]
    longest = quantiles((a.input_tokens + a.output_tokens for a in found), n=100)[-1]
    shorter = min(1.0, LONGEST / longest)
    return [_fitting(arrival, shorter) for arrival in found]


def _fitting(arrival: Arrival, shorter: float) -> Arrival:
    given = min(max(1, round(shorter * arrival.input_tokens)), LONGEST - 2)
    taken = max(2, round(shorter * arrival.output_tokens))
    return Arrival(arrival.time, given, min(taken, LONGEST - given))


def _load(trace: list[Arrival], curve: ServiceCurve) -> float:
    """Return L = λ·w, the share of the worker's time that a trace takes."""
    work = sum(
        curve.prefill_work(a.input_tokens) + curve.decode_work(a.input_tokens, a.output_tokens)
        for a in trace
    )
    return work / trace[-1].time


def _overhead(alone: list[Timed], told: ScrapePair) -> float:
    """Return what first tokens took beyond the step that made them, when nobody else was there."""
    _, totals = new_steps([told])
    return max(0.0, median(t.ttft for t in alone) - totals.seconds / totals.steps)


def _simulated(trace: list[Arrival], curve: ServiceCurve, overhead: float) -> list[Timed]:
    setup = Setup(curve, overhead=overhead, chunk_tokens=1024, max_sequences=256, stall_free=False)
    return [
        Timed(
            job.first_token - job.arrival,
            (job.finish - job.first_token) / (job.output_tokens - 1),
        )
        for job in Fleet(setup, 1).run(trace, Fixed(1)).jobs
    ]


def _scrape(served: WorkerProcess) -> Scrape:
    return parse(httpx.get(f"{served.url}/metrics").text, names.WORKER_FAMILIES, time.time())


def _measured(found: Scrape) -> StepCost:
    """Return what the worker measured of itself when it started."""
    terms = {dict(labels)["term"]: v for labels, v in found.series(names.STEP_COST)}
    return StepCost(terms["step"], terms["prefill_token"], terms["sequence"], terms["kv_token"])


def _learned(served: WorkerProcess, before: Scrape) -> ServiceCurve:
    """Return the curve that the autoscaler learns from a worker's metrics since a scrape of it."""
    now = _scrape(served)
    pairs = [ScrapePair(now, before)]
    steps = Steps().after(*new_steps(pairs), 0.0)
    curve = steps.curve(_measured(now), KV_TOKENS)
    if curve is None:
        sys.exit("the worker does not tell what its steps cost")
    return curve


async def _one_by_one(served: WorkerProcess, requests: list[Arrival]) -> list[Timed]:
    return [await _ask(served, number, asked) for number, asked in enumerate(requests)]


async def _rehearse(served: WorkerProcess, requests: list[Arrival]) -> None:
    """Keep the worker busy for a while, so that it tells what its steps cost in company."""
    places = asyncio.Semaphore(TOGETHER)

    async def ask(number: int, asked: Arrival) -> None:
        async with places:
            await _ask(served, number, asked)

    await asyncio.gather(*(ask(len(ALONE) + n, asked) for n, asked in enumerate(requests)))


async def _replay(served: WorkerProcess, trace: list[Arrival]) -> list[Timed]:
    """Send every request at its time."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        running = []
        for number, arrival in enumerate(trace, len(ALONE) + REHEARSED):
            await asyncio.sleep(max(0.0, began + arrival.time - time.monotonic()))
            running.append(tasks.create_task(_ask(served, number, arrival)))
    return [task.result() for task in running]


async def _ask(served: WorkerProcess, number: int, arrival: Arrival) -> Timed:
    """Ask on a connection of its own. An HTTP client would take as much CPU as the worker does."""
    # The first two tokens are of this request alone, so no cache has seen any of its blocks.
    tokens = [10 + number % 1000, 10 + number // 1000, *range(10, 8 + arrival.input_tokens)]
    wanted = {
        "model": NAME, "prompt": tokens[: arrival.input_tokens], "stream": True,
        "max_tokens": arrival.output_tokens, "ignore_eos": True, "temperature": 0,
    }  # fmt: skip
    body, where = json.dumps(wanted).encode(), urlsplit(served.url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {where.netloc}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    began, first, last, end = time.monotonic(), nan, nan, b""
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(head.encode() + body)
    while piece := await reader.read(1 << 16):
        if first == first or b"data: {" in piece:
            last = time.monotonic()
            first = last if first != first else first
        end = (end + piece)[-64:]
    writer.close()
    if b"data: [DONE]" not in end:
        sys.exit(f"a request was not answered to its end: {end!r}")
    return Timed(first - began, (last - first) / max(1, arrival.output_tokens - 1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, help="CSV of requests")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the trace")
    parser.add_argument("--load", type=float, default=0.5, help="L = λ·w that arrives")
    parser.add_argument("--quick", action="store_true", help="one minute; nothing is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
