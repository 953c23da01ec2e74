"""Workers that compute nothing: paged prefix caches and step times, in simulated time.

Continuous batching with chunked prefill: a step computes up to `BUDGET` tokens of waiting prompts
in order of arrival and one token for each decoding sequence, and takes what `COST` says. Prefix
blocks are found as far as they are cached without a gap; those that no request holds are evicted,
least recently used first, later blocks of a prompt before earlier ones.
"""

import heapq
import itertools
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from penstock_contract.step_cost import StepCost

COST = StepCost(0.015, 1e-4, 1e-4, 1e-7)
"""About a 70B model on four H100."""
BLOCK = 512
"""Tokens: what the trace's block ids stand for."""
BUDGET = 8192
"""Tokens of prompts computed in one step."""


@dataclass(eq=False)
class Request:
    """One request of the trace, and what becomes of it."""

    arrival: float
    prompt: int
    """Tokens."""
    output: int
    blocks: Sequence[int]
    ideal: int = 0
    """Prompt tokens that were in any earlier prompt."""
    cached: int = 0
    left: int = 0
    """Prompt tokens to compute."""
    to_generate: int = 0

    @property
    def own_blocks(self) -> int:
        """Blocks for what it generates."""
        return math.ceil(self.output / BLOCK)


@dataclass(eq=False)
class Worker:
    """A worker with room for so many blocks."""

    id: str
    capacity: int
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Computed blocks, least recently used first."""
    computed: float = 0.0
    """Seconds of work, without what a step costs by itself."""
    computed_by_minute: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    """Version of what is under way: an arrival may shorten it."""
    until: float | None = None
    """End of what is under way."""
    _held: Counter[int] = field(default_factory=Counter)
    _generated: int = 0
    """Blocks of running requests' outputs."""
    _waiting: list[Request] = field(default_factory=list)
    _prefilling: list[Request] = field(default_factory=list)
    _decoding: list[Request] = field(default_factory=list)
    _plan: list[tuple[Request, int]] = field(default_factory=list)
    _began: float = 0.0
    _step: float = 0.0
    _count: int = 0

    def cached(self, blocks: Iterable[int]) -> int:
        """Return how many of a prompt's blocks are cached."""
        return sum(1 for _ in itertools.takewhile(self.cache.__contains__, blocks))

    def take(self, request: Request, now: float) -> None:
        """Queue a request; a step under way goes on to its end, several steps only to the next."""
        self._waiting.append(request)
        if self.until is None:
            self.begin(now)
        elif self._count > 1:
            self._plan_until(max(1, math.ceil((now - self._began) / self._step)))

    def begin(self, now: float) -> None:
        """Begin a step, or as many as there will be without a change."""
        self._admit()
        self._plan, budget = [], BUDGET
        for request in self._prefilling:
            chunk = min(budget, request.left)
            if chunk:
                self._plan.append((request, chunk))
            budget -= chunk
        if not self._plan and not self._decoding:
            self.until = None
            return
        prefill = sum(chunk for _, chunk in self._plan)
        context = sum(r.prompt + r.output - r.to_generate for r in self._decoding)
        self._began, self._step = now, COST.seconds(prefill, len(self._decoding), context)
        self._plan_until(1 if self._plan else min(r.to_generate for r in self._decoding))

    def finish(self, now: float) -> tuple[list[Request], list[Request]]:
        """End what is under way; return who has a first token, and who is done."""
        work = self._count * (self._step - COST.step)
        self.computed += work
        self.computed_by_minute[int(now // 60)] += work
        for request in self._decoding:
            request.to_generate -= self._count
        for request, chunk in self._plan:
            request.left -= chunk
        first = [request for request, _ in self._plan if not request.left]
        for request in first:
            self._prefilling.remove(request)
            self._decoding.append(request)
            for block in reversed(request.blocks):
                self.cache[block] = None
                self.cache.move_to_end(block)
        self._evict()
        done = [request for request in self._decoding if request.to_generate <= 0]
        for request in done:
            self._leave(request)
        return first, done

    def _plan_until(self, count: int) -> None:
        if count != self._count or self.until is None or self.until != self._began + count:
            self.steps += 1
            self._count = count
            self.until = self._began + count * self._step

    def _admit(self) -> None:
        """Let requests in as long as their KV fits; a lone one always."""
        while self._waiting:
            request = self._waiting[0]
            fresh = sum(1 for block in request.blocks if not self._held[block])
            used = len(+self._held) + self._generated
            busy = self._prefilling or self._decoding
            if busy and used + fresh + request.own_blocks > self.capacity:
                return
            self._waiting.pop(0)
            known = self.cached(request.blocks)
            request.cached = min(known * BLOCK, request.prompt - 1)
            request.left = request.prompt - request.cached
            request.to_generate = request.output - 1
            self._held.update(request.blocks)
            self._generated += request.own_blocks
            for block in reversed(request.blocks[:known]):
                self.cache.move_to_end(block)
            self._prefilling.append(request)

    def _leave(self, request: Request) -> None:
        self._decoding.remove(request)
        self._generated -= request.own_blocks
        for block in request.blocks:
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]

    def _evict(self) -> None:
        excess = len(self.cache) + self._generated - self.capacity
        if excess > 0:
            idle = (block for block in self.cache if block not in self._held)
            for block in list(itertools.islice(idle, excess)):
                del self.cache[block]


def replay(
    trace: Iterable[Request],
    choose: Callable[[Request, float], Worker],
    first: Callable[[Request, float], None],
    done: Callable[[Request], None],
) -> None:
    """Run a trace to its end.

    Args:
        trace: by arrival.
        choose: says who gets a request.
        first: is told of first tokens, with the time.
        done: is told of requests that have ended.
    """
    ends: list[tuple[float, int, Worker, int]] = []
    numbers = itertools.count()

    def note(worker: Worker) -> None:
        if worker.until is not None:
            heapq.heappush(ends, (worker.until, next(numbers), worker, worker.steps))

    def advance(now: float) -> None:
        while ends and ends[0][0] <= now:
            end, _, worker, version = heapq.heappop(ends)
            if version != worker.steps or worker.until is None:
                continue
            begun, ended = worker.finish(end)
            for request in begun:
                first(request, end)
            for request in ended:
                done(request)
            worker.begin(end)
            note(worker)

    for request in trace:
        advance(request.arrival)
        worker = choose(request, request.arrival)
        worker.take(request, request.arrival)
        note(worker)
    advance(math.inf)
