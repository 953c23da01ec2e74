"""Decides what the next engine step computes. Plain Python, no torch, no clock.

There is no prefill phase and no decode phase: every request catches up from computed to known
tokens under one token budget per step. A decoding request is one token behind, a new one its whole
prompt, and long prompts are cut into chunks by the budget, and by the pace that decoding requests
ask for. Running requests come first, and each leaves a token for those behind it, so a prompt never
stalls decoding; waiting ones are admitted by priority, then arrival, while blocks last. When a
running request needs a block and none is left, the least urgent running request is preempted: its
blocks are released and it is computed again later (recompute, Kwon et al., "PagedAttention", SOSP
2023, §4.5), most of it from the prefix cache.
"""

from collections.abc import Iterable
from typing import Protocol

from penstock_worker.block_pool import BlockPool
from penstock_worker.block_tables import BlockTables
from penstock_worker.forks import Forks
from penstock_worker.prefill_budget import PrefillBudget
from penstock_worker.request import Request
from penstock_worker.step import Slice, Step
from penstock_worker.waiting_queue import WaitingQueue


class Fetcher(Protocol):
    """Gets KV from a slower tier."""

    def fetch(self, request: Request) -> bool:
        """Begin to bring KV of a waiting request into the pool; False: it is not to wait for any.

        Else the request is kept beside until `unpark`.
        """


class Scheduler:
    """The waiting and the running queue.

    Args:
        pool: where blocks come from.
        max_num_seqs: requests that run at once.
        max_num_batched_tokens: token budget of a step.
        window: tokens that the model's widest layer sees; 0 for all.
        prefill_budget: bounds the prompt tokens of a step.
        sparse_tokens: that a token of an answer reads; 0 for all.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        window: int = 0,
        prefill_budget: PrefillBudget | None = None,
        sparse_tokens: int = 0,
    ) -> None:
        self.pool = pool
        self.running: list[Request] = []  # most urgent first
        self.preemptions = 0
        self.bounded_steps = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.fetcher: Fetcher | None = None
        self._max_num_seqs = max_num_seqs
        self._budget = max_num_batched_tokens
        self._waiting = WaitingQueue()
        self._requests: dict[str, Request] = {}
        self._deadlines: dict[str, float] = {}
        self._forks = Forks()
        self._tables = BlockTables(pool, window, sparse_tokens)
        self._prefill_budget = prefill_budget or PrefillBudget()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission."""
        return len(self._waiting)

    @property
    def num_parked(self) -> int:
        """Requests that wait for something else first."""
        return len(self._requests) - len(self.running) - len(self._waiting)

    def ids(self) -> list[str]:
        """Return the ids of all requests, waiting or running, in order of arrival."""
        return list(self._requests)

    def adapters(self) -> set[str]:
        """Return the keys of the adapters that requests have, waiting or running."""
        return {request.weights for request in self._requests.values()}

    def overdue(self, now: float) -> list[str]:
        """Return the ids of requests whose deadline has passed, wherever they are."""
        return [request_id for request_id, end in self._deadlines.items() if end <= now]

    @property
    def next_deadline(self) -> float | None:
        """Monotonic seconds at which the first request is overdue; None for never."""
        return min(self._deadlines.values(), default=None)

    def fits(self, request: Request) -> bool:
        """Return whether the request could ever run to its end, alone in the pool."""
        return self._tables.fits(request, self._budget)

    def add(self, request: Request, *, parked: bool = False, beside: str = "") -> None:
        """Put a request into the waiting queue, or keep it beside until `unpark`.

        Args:
            request: a new one.
            parked: keep it beside.
            beside: id of a request whose prompt it shares; it waits until that is computed.

        Raises:
            ValueError: its id is taken, or it could never fit: the engine would wait for ever.
        """
        if request.id in self._requests:
            raise ValueError(f"request id {request.id!r} is already in use")
        if not self.fits(request):
            raise ValueError(f"request {request.id!r} can never fit into the KV cache")
        self._requests[request.id] = request
        if request.deadline is not None:
            self._deadlines[request.id] = request.deadline
        if not parked and not self._forks.wait(request, self._requests.get(beside)):
            self.unpark(request)

    def unpark(self, request: Request) -> None:
        """Put a request that was kept beside into the waiting queue."""
        self._waiting.push(request)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget requests, wherever they are; unknown ids are ignored."""
        for request_id in ids:
            request = self._requests.get(request_id)
            if request is not None:
                self.finish(request)

    def finish(self, request: Request) -> None:
        """Take a request out and release its blocks; full ones stay findable."""
        del self._requests[request.id]
        self._deadlines.pop(request.id, None)
        if request in self.running:
            self.running.remove(request)
            self._tables.release(request)
        else:
            self._waiting.discard(request)
            self._forks.discard(request)
        for other in self._forks.take(request):
            self.unpark(other)

    def schedule(self) -> Step:
        """Choose the slices of the next step and give them their blocks."""
        step = Step(prompts=self._prefill_budget.room(self.running))
        budget = self._schedule_running(step, self._budget)
        self._schedule_waiting(step, budget)
        self.bounded_steps += step.cut
        return step

    def room(self, request: Request, count: int) -> int:
        """Make room for so many guesses behind a request's known tokens.

        Returns for how many there is some; nobody is preempted for a guess.
        """
        known = len(request.tokens)
        count = max(0, min(count, request.max_length - known - 1))
        spare = self.pool.available - len(self.running)
        held = self._tables.grow_at_most(request, known + count, spare)
        return max(0, min(count, held - known))

    def commit(self, step: Step) -> None:
        """Record that the step's slices are computed; full blocks become findable."""
        self._tables.copied(step.copies)
        for part in step.slices:
            request = part.request
            request.computed = part.start + part.count
            self._tables.name(request)
            if self._forks and request.computed >= request.prompt_length:
                for other in self._forks.take(request):
                    self._fork(request, other)
            self._tables.let_go(request)

    def _schedule_running(self, step: Step, budget: int) -> int:
        index = 0
        while budget and index < len(self.running):  # preemption shortens it from the end
            request = self.running[index]
            index += 1
            # A long prompt leaves a token for everyone behind it: decoding never stalls.
            fair = max(1, budget - (len(self.running) - index))
            count = self._limited(request, min(request.pending, fair), step)
            if count and self._grow(request, request.computed + count, step):
                drafts = self._drafts(request, count, fair - count) if request.drafts else ()
                step.slices.append(Slice(request, request.computed, count, drafts))
                budget -= count + len(drafts)
        return budget

    def _limited(self, request: Request, count: int, step: Step) -> int:
        """Return how many of `count` tokens the step has room for, and take that room."""
        if request.unscored:
            count = min(count, step.scoring)
            step.scoring -= count
        if not request.decodes:
            step.cut = step.cut or count > step.prompts
            count = min(count, step.prompts)
            step.prompts -= count
        return count

    def _drafts(self, request: Request, count: int, budget: int) -> tuple[int, ...]:
        """Return the drafts that there is room for; nobody is preempted for a guess."""
        if count < request.pending:
            return ()
        return tuple(request.drafts[: self.room(request, min(len(request.drafts), budget))])

    def _schedule_waiting(self, step: Step, budget: int) -> None:
        if step.preempted:
            return  # blocks are short: admitting now would only preempt again
        while budget and self._waiting and len(self.running) < self._max_num_seqs:
            request = self._waiting.first()
            if self.fetcher is not None and self.fetcher.fetch(request):
                self._waiting.pop()  # those behind it need not wait meanwhile
                continue
            count = self._admit(request, budget, step)
            if not count:
                break
            self._waiting.pop()
            self._count_first_admission(request, step)
            self.running.append(request)
            self.running.sort(key=lambda running: running.urgency)
            step.slices.append(Slice(request, request.computed, count))
            budget -= count

    def _admit(self, request: Request, budget: int, step: Step) -> int:
        """Give a waiting request its cached prefix and blocks; 0 when they are not to be had."""
        prefix = self._tables.cached_prefix(request)
        cached = len(prefix) * self.pool.block_size
        count = self._limited(request, min(len(request.tokens) - cached, budget), step)
        begun = count > 0 and self._tables.begin(request, prefix, cached + count)
        return count if begun else 0

    def _count_first_admission(self, request: Request, step: Step) -> None:
        """Count what the prefix cache gave; a preempted request would be counted again."""
        if request.admitted:
            return
        request.admitted = True
        # Of a resumed request, output may be cached too: what is reported is of the prompt.
        found = min(request.computed, request.prompt_length)
        request.cached_tokens = max(0, found - request.pulled_tokens)
        self.prefix_queries += request.prompt_length
        self.prefix_hits += request.cached_tokens
        step.admitted.append(request)

    def _grow(self, request: Request, length: int, step: Step) -> bool:
        """Make room for up to `length` tokens, preempting less urgent requests for it."""
        while (missing := self._tables.missing(request, length)) > self.pool.available:
            if self._preempt(step) is request:
                return False
        if missing:
            step.copies += self._tables.grow(request, length)
        return True

    def _fork(self, first: Request, other: Request) -> None:
        """Let another choice share the computed prompt; only its last token is computed again."""
        if len(self.running) >= self._max_num_seqs or not self._tables.sharable(first):
            self.unpark(other)  # most of the prompt will be found in the cache
            return
        self._tables.share(first, other)
        other.admitted, other.queue_seconds = True, first.queue_seconds
        other.cached_tokens = other.computed
        self.running.append(other)
        self.running.sort(key=lambda running: running.urgency)

    def _preempt(self, step: Step) -> Request:
        """Send the least urgent running request back to wait. It has no slice in this step yet."""
        victim = self.running.pop()
        self._tables.release(victim)
        victim.asked = False
        self._waiting.push(victim)
        step.preempted.append(victim)
        self.preemptions += 1
        return victim
