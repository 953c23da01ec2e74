"""Replays a trace with prefix blocks through the gateway's routing, over simulated workers.

    python benchmarks/prefix_routing.py --trace PATH [--workers 8] [--kv-tokens 3000000]
                                        [--processes 1] [--spread] [--quick]

The code that chooses is the gateway's own (penstock_gateway.routing); it sees what a gateway sees:
bytes of prompts, its own decisions, first tokens, and what answers say was cached. `exact` replaces
its prefix index by knowledge of every worker's cache, as KV events would give it. Prints JSON lines
by policy: `share_of_ideal_hit` (prompt tokens found cached, over those that were in any earlier
prompt) and `imbalance` (computing seconds of the busiest worker over the mean), with quantiles of
TTFT, and the precision and recall of predicted hits beside them.
"""

import argparse
import csv
import gzip
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import report
from simulated_caches import BLOCK, Request, Worker, replay
from simulated_processes import Processes

from penstock_contract.api import Role
from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.prefix_index import Match, PrefixIndex, PrefixKeys, prefix_keys
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt, Ticket

POLICIES = ("PrefixAware", "PrefixAware exact", "ConsistentHash", "LeastLoad", "RoundRobin")
LIMITS = {"share_of_ideal_hit": 0.9, "imbalance": 1.25}


class ExactIndex(PrefixIndex):
    """Knows what the workers have, and what they were sent and have not computed yet."""

    def __init__(self, run: "Run") -> None:
        super().__init__()
        self._run = run

    def match(self, keys: PrefixKeys) -> dict[str, Match]:
        """Return what each worker has of the prompt that is being routed."""
        sent = super().match(keys)
        size, found = self._run.bytes_of, {}
        for worker in self._run.workers:
            known = self._run.blocks[: worker.cached(self._run.blocks)]
            length = sum(size(block) for block in known)
            queued = sent.get(worker.id, Match(0, 0))
            recent = queued.length if queued.age < self._run.in_queue(worker) else 0
            if length or recent:
                found[worker.id] = Match(max(length, recent), queued.age)
        return found


class Run:
    """One policy over one trace."""

    def __init__(
        self, policy: str, trace: list[Request], workers: int, kv_tokens: int, processes: int = 1
    ) -> None:
        self.workers = [Worker(f"w{n}", kv_tokens // BLOCK) for n in range(workers)]
        self.blocks: list[int] = []
        """Of the request that is being routed."""
        self._policy, _, exact = policy.partition(" ")
        self._router: Router | Processes
        if processes > 1:
            self._router = Processes(processes)
        else:
            self._router = Router(ExactIndex(self) if exact else PrefixIndex())
        self._fleet = [
            FleetWorker(id=w.id, url="http://w", deployment="d", pool="p", role=Role.UNIFIED)
            for w in self.workers
        ]
        self._by_id = {worker.id: worker for worker in self.workers}
        self._tickets: dict[Request, Ticket] = {}
        self._random = random.Random(1)
        self.ttft: list[float] = []
        self.predicted = self.told = self.right = 0
        replay(trace, self._choose, self._first, self._done)
        self.hit = sum(request.cached for request in trace)
        self.ideal = sum(request.ideal for request in trace)

    def bytes_of(self, block: int) -> int:
        """Return how long a block's text is: about four bytes per token, each its own."""
        return 1500 + block * 2654435761 % 1097

    def in_queue(self, worker: Worker) -> int:
        """Return about how many bytes a worker was sent and has not computed."""
        return 4 * self._router.tally(worker.id).outstanding_tokens

    def imbalance(self) -> float:
        """Return the busiest worker's work over the mean."""
        work = [worker.computed for worker in self.workers]
        return max(work) * len(work) / sum(work)

    def imbalance_in_a_minute(self) -> float:
        """Return the same for every minute alone, in the mean."""
        minutes = sorted(set().union(*(worker.computed_by_minute for worker in self.workers)))
        peaks = []
        for minute in minutes:
            work = [worker.computed_by_minute[minute] for worker in self.workers]
            peaks.append(max(work) * len(work) / sum(work))
        return sum(peaks) / len(peaks)

    def _choose(self, request: Request, now: float) -> Worker:
        self.blocks = list(request.blocks)
        text = b"".join((b"%08d" % block * 325)[: self.bytes_of(block)] for block in request.blocks)
        prompt = Prompt(prefix_keys(text), len(text))
        tie = self._random.random()
        ranking = self._router.rank(self._fleet, prompt, tie=tie, now=now, policy=self._policy)
        choice = ranking[0]
        self._tickets[request] = self._router.take(choice, prompt, now)
        return self._by_id[choice.id]

    def _first(self, request: Request, now: float) -> None:
        self.ttft.append(now - request.arrival)
        told = PromptUsage(request.prompt, request.cached)
        prediction = self._router.answered(self._tickets[request], now, told)
        if prediction is not None:
            self.predicted += prediction.predicted
            self.told += prediction.cached
            self.right += min(prediction)

    def _done(self, request: Request) -> None:
        self._router.ended(self._tickets.pop(request))


def read(path: Path, most: int | None) -> Iterator[Request]:
    """Yield the requests of a trace."""
    seen: set[int] = set()
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            if number == most:
                return
            blocks = list(_blocks(row["hash_ids"]))
            tokens = int(row["input_tokens"])
            known = next((n for n, block in enumerate(blocks) if block not in seen), len(blocks))
            seen.update(blocks)
            ideal = min(known * BLOCK, tokens - 1)
            output = max(1, int(row["output_tokens"]))
            yield Request(float(row["timestamp_s"]), tokens, output, blocks, ideal)


def spread(trace: list[Request]) -> None:
    """Let requests come at any time of the trace's step: its clock goes on by three seconds.

    To one process that makes little difference. Several learn of each other's requests a few
    milliseconds later, so of those that come in the same instant they know nothing.
    """
    moments = sorted({request.arrival for request in trace})
    steps = dict(zip(moments, [b - a for a, b in pairwise(moments)], strict=False))
    chance = random.Random(5)
    for request in trace:
        request.arrival += chance.random() * steps.get(request.arrival, 0.0)
    trace.sort(key=lambda request: request.arrival)


def _blocks(text: str) -> Iterator[int]:
    for part in text.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main() -> None:
    """Measure and print."""
    options = _options()
    case = f"{options.workers} x {options.kv_tokens:g} tokens"
    if options.processes > 1:
        case += f", {options.processes} processes"
    if options.spread:
        case += ", spread"
    for policy in options.policy or POLICIES:
        trace = list(read(options.trace, 1500 if options.quick else None))
        if options.spread:
            spread(trace)
        run = Run(policy, trace, options.workers, options.kv_tokens, options.processes)
        _tell(run, f"{policy}, {case}", keep=not options.quick)


def _tell(run: Run, case: str, *, keep: bool) -> None:
    ttft = sorted(run.ttft)
    more: dict[str, Any] = {
        "imbalance_in_a_minute": round(run.imbalance_in_a_minute(), 3),
        **{f"ttft_p{q}": round(ttft[len(ttft) * q // 100], 3) for q in (50, 90, 99)},
        "precision": round(run.right / run.predicted, 3) if run.predicted else None,
        "recall": round(run.right / run.told, 3) if run.told else None,
    }
    share, imbalance = run.hit / run.ideal, run.imbalance()
    sys.stderr.write(f"{case}: share {share:.3f}, imbalance {imbalance:.3f}, {more}\n")
    for metric, value in (("share_of_ideal_hit", share), ("imbalance", imbalance)):
        limit = LIMITS[metric] if case.startswith("PrefixAware") else None
        figure = report.line("prefix_routing", metric, case, "1", value, limit=limit, **more)
        report.tell(figure, keep=keep)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kv-tokens", type=lambda text: int(float(text)), default=3_000_000)
    parser.add_argument("--processes", type=int, default=1, help="of the gateway")
    parser.add_argument(
        "--spread", action="store_true", help="do not let all requests of a moment come at once"
    )
    parser.add_argument("--policy", action="append", choices=POLICIES, help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="the trace's first requests only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
