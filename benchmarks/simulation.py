"""How true the simulator is: a real worker and a simulated one under the same requests.

    python benchmarks/simulation.py [--seconds 600] [--load 0.5] [--quick]

A real worker with the example model gets a synthetic trace, open loop; the simulator gets the same
arrivals, and the service curve that the autoscaler learns from the worker's own metrics meanwhile.
Prints JSON lines: percentiles of `ttft_seconds` and `tpot_seconds`, ours = simulated, peer = real.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from statistics import quantiles

import httpx
from report import line, tell

from penstock_contract.step_cost import StepCost
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.exposition import page
from penstock_operator.autoscaling.learned import Steps
from penstock_operator.autoscaling.page import Page, Pair
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.fleet import Fleet
from penstock_operator.simulation.rivals import Fixed
from penstock_operator.simulation.setup import Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from worker_process import NAME, WorkerProcess, eventually, worker

LONGEST = 500
"""Tokens of a request; the example model's context is 512."""
SHAPE = Synthetic(
    clients=20, burstiness=2.0, swing=0.3, input_mean=120.0, output_mean=80.0, spread=0.6
)
KV_TOKENS = 65_536


@dataclass
class Timed:
    """What a client saw of one request, in seconds."""

    ttft: float = nan
    tpot: float = nan


def main() -> None:
    """Measure, simulate, print."""
    options = _options()
    seconds = 60.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--max-num-batched-tokens", "1024", "--kv-cache-memory", "256Mi"]
        with worker(Path(folder) / "log", *flags) as served:
            eventually(lambda: served.health() == (200, "ok"), "the worker is ready")
            cost = _measured(_page(served))
            trace = _trace(seconds, options.load / _work(cost))
            before = _page(served)
            real = asyncio.run(_replay(served, trace))
            curve = _learned(Pair(_page(served), before), cost)
    setup = Setup(curve, chunk_tokens=1024, max_sequences=256)
    done = Fleet(setup, 1).run(trace, Fixed(1)).jobs
    simulated = [
        Timed(
            job.first_token - job.arrival,
            (job.finish - job.first_token) / (job.output_tokens - 1),
        )
        for job in done
    ]
    print(f"{len(trace)} requests in {seconds:.0f} s; {curve}", file=sys.stderr)
    for metric in ("ttft", "tpot"):
        ours = quantiles((getattr(t, metric) for t in simulated), n=100)
        peer = quantiles((getattr(t, metric) for t in real), n=100)
        for percent in (50, 90, 99):
            figure = line(
                "simulation", f"{metric}_seconds", f"p{percent}, L = {options.load:g}", "s",
                ours[percent - 1], peer="the real worker", peer_value=peer[percent - 1],
                requests=len(trace),
            )  # fmt: skip
            both = {"ours": ours[percent - 1], "peer_value": peer[percent - 1]}
            figure |= {name: round(value, 5) for name, value in both.items()}
            tell(figure, keep=not options.quick)


def _trace(seconds: float, rate: float) -> list[Arrival]:
    shape = replace(SHAPE, seconds=seconds, period=seconds, rate=rate)
    found = []
    for arrival in generate(shape):
        given = min(arrival.input_tokens, LONGEST // 2)
        taken = min(max(2, arrival.output_tokens), LONGEST - given)
        found.append(Arrival(arrival.time, given, taken))
    return found


def _work(cost: StepCost) -> float:
    """Return w, the seconds of the worker that a mean request takes."""
    context = SHAPE.input_mean + SHAPE.output_mean / 2
    decode = SHAPE.output_mean * (cost.sequence + cost.kv_token * context)
    return SHAPE.input_mean * cost.prefill_token + decode


def _page(served: WorkerProcess) -> Page:
    return page(httpx.get(f"{served.url}/metrics").text, names.WORKER_FAMILIES, time.time())


def _measured(found: Page) -> StepCost:
    """Return what the worker measured of itself when it started."""
    terms = {dict(labels)["term"]: v for labels, v in found.series(names.STEP_COST)}
    return StepCost(terms["step"], terms["prefill_token"], terms["sequence"], terms["kv_token"])


def _learned(pair: Pair, prior: StepCost) -> ServiceCurve:
    curve = Steps().after(pair.by_label(names.MOMENTS, "product"), 0.0).curve(prior, KV_TOKENS)
    if curve is None:
        sys.exit("the worker does not tell what its steps cost")
    return curve


async def _replay(served: WorkerProcess, trace: list[Arrival]) -> list[Timed]:
    """Send every request at its time; prompts are token ids that no cache has seen."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=120) as client:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            running = []
            for number, arrival in enumerate(trace):
                await asyncio.sleep(max(0.0, began + arrival.time - time.monotonic()))
                running.append(tasks.create_task(_ask(client, number, arrival)))
    return [task.result() for task in running]


async def _ask(client: httpx.AsyncClient, number: int, arrival: Arrival) -> Timed:
    tokens = [(number * 31 + place * 7) % 1000 + 10 for place in range(arrival.input_tokens)]
    body = {
        "model": NAME, "prompt": tokens, "max_tokens": arrival.output_tokens,
        "stream": True, "ignore_eos": True, "temperature": 0,
    }  # fmt: skip
    began, first, last = time.monotonic(), nan, nan
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for found in answer.aiter_lines():
            if found.startswith("data: {"):
                last = time.monotonic()
                first = last if first != first else first
    return Timed(first - began, (last - first) / (arrival.output_tokens - 1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of the trace")
    parser.add_argument("--load", type=float, default=0.5, help="L = λ·w that arrives")
    parser.add_argument("--quick", action="store_true", help="one minute; nothing is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
