"""What the order of waiting requests is worth: first tokens in time while there is too much work.

    python benchmarks/first_tokens.py --trace PATH [--peers vllm-router,sglang-router,...]
                                      [--load 1.15] [--seconds 45] [--quick]

Four real workers whose steps take what a service curve says (`--runner sim`; nothing is cached)
get the busiest piece of a trace as streams, open loop, played so fast that it brings `load` times
what they can compute: through our gateway with an objective for first tokens, through ours without
(first come, first served; workers get all that they can run), and through other routers: also
through two processes of ours (`penstock-2`), two that do not know of each other (`penstock-apart`),
and ours before workers that say no more of themselves than vLLM (`penstock-untold`): what prompts
cost it has to learn while they come. All get the same requests at the same times, one router after
the other. Before, more than enough is sent
through ours, to see whether holding prompts back leaves workers idle.

Prints JSON lines, ours = with the objective: `in_time` (share of all requests whose first token
came within it), `ttft_seconds` of those that got one, counted from when a request should have been
sent, `not_answered`, `computed` (work done while requests came, over what full steps can do),
`requests_per_second` until the last one ended, and `computed_at_saturation`. Beside them what the
figures rest on: how late requests were sent (99 %), the processor time of the load generator, the
share of the time that workers were in steps, and how long these took over what the curve says.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import report
from paced_workers import LONGEST, MODEL, Computed, computed, scrape, work, workers
from routers import OURS, PEERS, TWO_OF_OURS, Router
from trace_replay import Prompts, Seen, body, busiest, replay
from worker_process import EXAMPLE_MODEL, WorkerProcess, eventually

from penstock_contract.api.inference import Queue
from penstock_contract.fleet import FleetModel, FleetQueue
from penstock_operator.simulation.trace import Arrival, read

WORKERS = 4
AT_ONCE = 256
"""Requests that a worker runs."""
WITHOUT = "penstock without"
"""Ours, not told of the objective."""
APART = "penstock-apart"
"""Two of ours that know nothing of each other, as two pods of the gateway: each gets every other
request."""
UNTOLD = "penstock-untold"
"""Ours, before workers that do not tell what prompts cost, as vLLM does not."""
TOLD = (OURS, TWO_OF_OURS, APART, UNTOLD)
"""Who is told of the objective."""
WARM = 2.0
"""Seconds of small requests, one after the other, before anything is counted."""
SATURATION = 1.6
"""Load of which there is more than enough."""


@dataclass(frozen=True)
class Load:
    """What is sent, and when."""

    arrivals: list[Arrival]
    bodies: list[bytes]
    seconds: float


@dataclass(frozen=True)
class Run:
    """What came of it through one router."""

    seen: list[Seen]
    done: Computed
    """While requests came."""
    client: float
    """Processor seconds of the load generator per second."""

    def in_time(self, objective: float) -> float:
        """Return the share of all requests whose first token came in time."""
        return sum(one.ttft <= objective for one in self.seen) / len(self.seen)

    @property
    def ttfts(self) -> list[float]:
        """Seconds to the first token of those that got one."""
        return sorted(one.ttft for one in self.seen if one.status == 200 and one.ttft < 1e9)

    @property
    def rests_on(self) -> dict[str, float]:
        """What makes the figures believable, or not."""
        return {
            "sent_late_p99": round(
                quantiles((one.late for one in self.seen), n=100, method="inclusive")[-1], 4
            ),
            "client_cpu": round(self.client, 3),
            "busy": round(self.done.busy, 3),
            "pace": round(self.done.pace, 3),
        }


def main() -> None:
    """Measure and print."""
    options = _options()
    trace, prompts = read(options.trace), Prompts(EXAMPLE_MODEL)
    trace = [one for one in trace if one.input_tokens + one.output_tokens < LONGEST]
    load = _load(trace, prompts, options.load, options.seconds)
    flood = _load(trace, prompts, SATURATION, options.seconds / 2)
    runs, floods = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with workers(folder, WORKERS) as pool:
            for subject in (OURS, WITHOUT):
                with _addresses(subject, pool, folder, options.ttft) as addresses:
                    floods[subject] = _run(addresses, pool, flood, to_the_end=False)
                    _say(f"{subject}, saturated", floods[subject], options.ttft)
            for subject in (OURS, WITHOUT, *(one for one in options.peers if one != UNTOLD)):
                with _addresses(subject, pool, folder, options.ttft) as addresses:
                    runs[subject] = _run(addresses, pool, load)
                    _say(subject, runs[subject], options.ttft)
        if UNTOLD in options.peers:
            with (
                workers(folder, WORKERS, tell=False) as pool,
                _addresses(UNTOLD, pool, folder, options.ttft) as addresses,
            ):
                runs[UNTOLD] = _run(addresses, pool, load)
                _say(UNTOLD, runs[UNTOLD], options.ttft)
                floods[UNTOLD] = _run(addresses, pool, flood, to_the_end=False)
                _say(f"{UNTOLD}, saturated", floods[UNTOLD], options.ttft)
    _tell(options, runs, floods)


def _load(trace: Sequence[Arrival], prompts: Prompts, level: float, seconds: float) -> Load:
    arrivals = busiest(trace, work, level * seconds * WORKERS, seconds)
    bodies = [body(MODEL, prompts.text(one.input_tokens), one.output_tokens) for one in arrivals]
    tenth = seconds / 10
    parts = [
        sum(work(one) for one in arrivals if n * tenth <= one.time < (n + 1) * tenth)
        for n in range(10)
    ]
    levels = " ".join(f"{part / tenth / WORKERS:.2f}" for part in parts)
    sys.stderr.write(f"{len(arrivals)} requests in {seconds:g} s, load by tenths: {levels}\n")
    return Load(arrivals, bodies, seconds)


@contextmanager
def _addresses(
    subject: str, pool: Sequence[WorkerProcess], folder: Path, objective: float
) -> Iterator[list[str]]:
    """Start who is measured; where there are several, requests go to them in turn."""
    model = FleetModel(
        name=MODEL,
        deployment="d",
        queue=FleetQueue.of(Queue(), (), AT_ONCE),
        ttft=objective if subject in TOLD else None,
        resume_streams=subject != UNTOLD,  # the journal says what was cached; vLLM has none
    )
    name = OURS if subject in (WITHOUT, APART, UNTOLD) else subject
    ports = [int(urlsplit(one.url).port or 0) for one in pool]
    with ExitStack() as stack:
        found = []
        for number in range(2 if subject == APART else 1):
            own = folder / f"{subject.replace(' ', '-')}-{number}"
            own.mkdir(exist_ok=True)
            router = Router(name, ports, own, model=model)
            stack.callback(router.stop)
            found.append(router.address)
        yield found


def _run(
    addresses: Sequence[str], pool: Sequence[WorkerProcess], load: Load, *, to_the_end: bool = True
) -> Run:
    _wait_until_idle(pool)
    return asyncio.run(_measure(addresses, pool, load, to_the_end=to_the_end))


async def _measure(
    addresses: Sequence[str], pool: Sequence[WorkerProcess], load: Load, *, to_the_end: bool
) -> Run:
    for address in addresses:
        await _warm(address)
    before, cpu, began = scrape(pool), time.process_time(), time.monotonic()
    asked = asyncio.create_task(_replayed(addresses, load, inf if to_the_end else load.seconds))
    await asyncio.sleep(load.seconds)
    took = time.monotonic() - began
    client = (time.process_time() - cpu) / took
    after = await asyncio.to_thread(scrape, pool)
    return Run(await asked, computed(before, after, took), client)


async def _replayed(addresses: Sequence[str], load: Load, until: float) -> list[Seen]:
    """Send the requests, each to the next address in turn."""
    count = len(addresses)
    parts = await asyncio.gather(
        *(
            replay(address, load.arrivals[n::count], load.bodies[n::count], until)
            for n, address in enumerate(addresses)
        )
    )
    return [one for part in parts for one in part]


async def _warm(address: str) -> None:
    """Let everybody open connections and learn what workers are."""
    until = time.monotonic() + WARM
    while time.monotonic() < until:
        small = body(MODEL, f"What are {time.monotonic()} lists?", 4)
        await replay(address, [Arrival(0.0, 1, 4)], [small])


def _wait_until_idle(pool: Sequence[WorkerProcess]) -> None:
    for one in pool:
        eventually(one.is_idle, "the worker is idle")


def _say(subject: str, run: Run, objective: float) -> None:
    found = quantiles(run.ttfts, n=100, method="inclusive")
    percentiles = "  ".join(f"p{n} {found[n - 1]:6.2f}" for n in (50, 90, 99))
    whole = sum(one.whole for one in run.seen)
    sys.stderr.write(
        f"{subject:<28} {run.in_time(objective):6.1%} in time  {percentiles}  "
        f"max {max(run.ttfts):6.2f}  {whole}/{len(run.seen)} whole  "
        f"computed {run.done.share:.3f}  {run.rests_on}\n"
    )


Row = tuple[str, str, str, float]
"""Metric, what of it, unit, value."""


def _rows(run: Run, objective: float) -> list[Row]:
    found = quantiles(run.ttfts, n=100, method="inclusive")
    return [
        ("in_time", "", "share", run.in_time(objective)),
        *(("ttft_seconds", f"p{n}", "s", found[n - 1]) for n in (50, 90, 99)),
        ("ttft_seconds", "max", "s", max(run.ttfts)),
        ("not_answered", "", "requests", float(sum(not one.whole for one in run.seen))),
        ("computed", "", "share", run.done.share),
        ("requests_per_second", "", "1/s", len(run.seen) / max(one.ended for one in run.seen)),
    ]


def _tell(options: argparse.Namespace, runs: dict[str, Run], floods: dict[str, Run]) -> None:
    told = f"{options.trace.name}, {WORKERS} workers, objective {options.ttft:g} s"
    for peer, run in list(runs.items())[1:]:
        rows = zip(_rows(runs[OURS], options.ttft), _rows(run, options.ttft), strict=True)
        for (metric, which, unit, ours), (*_, theirs) in rows:
            case = ", ".join(filter(None, [which, told, f"load {options.load:g}"]))
            figure = report.line(
                "first_tokens", metric, case, unit, ours, peer=peer, peer_value=theirs,
                requests=len(run.seen), rests_on=runs[OURS].rests_on, peer_rests_on=run.rests_on,
            )  # fmt: skip
            report.tell(figure, keep=not options.quick)
    without = floods[WITHOUT]
    for subject in (one for one in (OURS, UNTOLD) if one in floods):
        flood = floods[subject]
        case = f"{told}, load {SATURATION:g}" + ("" if subject == OURS else f", {subject}")
        figure = report.line(
            "first_tokens", "computed_at_saturation", case, "share",
            flood.done.share, peer=WITHOUT, peer_value=without.done.share, requests=len(flood.seen),
            rests_on=flood.rests_on, peer_rests_on=without.rests_on,
        )  # fmt: skip
        report.tell(figure, keep=not options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument(
        "--peers",
        type=_peers,
        default=[],
        help=f"separated by commas, of {', '.join((*PEERS, APART, UNTOLD))}",
    )
    parser.add_argument("--load", type=float, default=1.15, help="over what workers can compute")
    parser.add_argument("--ttft", type=float, default=2.0, help="objective in seconds")
    parser.add_argument("--seconds", type=float, default=45.0, help="in which requests come")
    parser.add_argument("--quick", action="store_true", help="a few seconds each; nothing is kept")
    options = parser.parse_args()
    options.seconds = 8.0 if options.quick else options.seconds
    return options


def _peers(text: str) -> list[str]:
    found = [name for name in text.split(",") if name]
    for name in found:
        if name not in (*PEERS, APART, UNTOLD):
            known = ", ".join((*PEERS, APART, UNTOLD))
            raise argparse.ArgumentTypeError(f"{name!r} is none of {known}")
    return found


if __name__ == "__main__":
    main()
