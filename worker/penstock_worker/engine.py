"""The engine: schedule → run → commit, and what each step has to tell.

It owns the requests; it knows neither sockets nor torch. `step` is the whole of continuous batching
in one screen.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock_contract.step_cost import StepCost
from penstock_worker.block_pool import BlockPool
from penstock_worker.grammar import Grammars, Matcher
from penstock_worker.guidance import constrain, draft
from penstock_worker.lora.shelf import Shelf
from penstock_worker.messages import (
    AdapterChanged,
    AddInputs,
    AddRequest,
    Batch,
    Drafted,
    FinishReason,
    LoadAdapter,
    Output,
    Stats,
    UnloadAdapter,
)
from penstock_worker.prefill_budget import PrefillBudget
from penstock_worker.progress import advance, drafted
from penstock_worker.request import Request
from penstock_worker.runner_interface import Ranks, Runner, SliceOutput
from penstock_worker.scheduler import Scheduler
from penstock_worker.speculative.proposer import Proposer
from penstock_worker.step import Slice, Step
from penstock_worker.validation import problem

if TYPE_CHECKING:
    from penstock_worker.tiers.tier import Tier
    from penstock_worker.transfer.handoff import Handoff  # it needs what most engines do not


class Engine:
    """Generates for many requests at once.

    Args:
        runner: computes tokens.
        pool: KV blocks.
        vocab_size: token ids run up to it.
        max_model_len: longest prompt + output in tokens.
        max_num_seqs: requests that run at once.
        max_num_batched_tokens: token budget of a step.
        grammars: reads the grammars of requests that have one.
        proposer: guesses tokens of requests that decode.
        adapters: that requests may name.
        window: tokens that the model's widest layer sees; 0 for all.
        sparse_tokens: of a context, those that a token of an answer reads; 0 for all.
        cost: of a step, as far as it is known; without it no step is bounded by an objective.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        runner: Runner,
        pool: BlockPool,
        *,
        vocab_size: int,
        max_model_len: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        grammars: Grammars | None = None,
        proposer: Proposer | None = None,
        adapters: Shelf | None = None,
        window: int = 0,
        sparse_tokens: int = 0,
        cost: StepCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self._prefill_budget = PrefillBudget(cost)
        self.scheduler = Scheduler(
            pool,
            max_num_seqs,
            max_num_batched_tokens,
            window=window,
            prefill_budget=self._prefill_budget,
            sparse_tokens=sparse_tokens,
        )
        self._runner = runner
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._grammars = grammars
        self._proposer = proposer
        self._adapters = adapters or Shelf()
        self.handoff: Handoff | None = None
        """Keeps blocks for other workers and gets theirs; set before `start`."""
        self.ranks: Ranks | None = None
        """Compute what the runner does, where there are any; set before `start`."""
        self._tier: Tier | None = None
        self.stalled = False
        """The latest step had nothing to compute: what waits needs blocks that others keep."""
        self._clock = clock
        self._arrivals = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute, or to give up."""
        scheduler = self.scheduler
        active = scheduler.running or scheduler.num_waiting
        return bool(active or scheduler.overdue(self._clock()))

    def use(self, tier: "Tier") -> None:
        """Keep in a slower tier what leaves the prefix cache; before `start`."""
        self._tier = self.pool.spill = self.scheduler.fetcher = tier

    def add(self, message: AddRequest | AddInputs) -> Output | None:
        """Accept a request; an Output is a refusal, with the reason."""
        if isinstance(message, AddInputs):
            return _gave_up(message.id, "this model generates: it embeds and scores nothing")
        wrong = problem(
            message,
            vocab_size=self._vocab_size,
            max_model_len=self._max_model_len,
        )
        adapter = self._adapters.get(message.adapter) if message.adapter else None
        if message.adapter and adapter is None:
            wrong = wrong or f"adapter {message.adapter!r} is not loaded"
        if wrong is not None:
            return _gave_up(message.id, wrong)
        self._arrivals += 1
        request = Request.from_message(
            message,
            arrival=self._arrivals,
            now=self._clock(),
            max_model_len=self._max_model_len,
            adapter=adapter,
        )
        try:
            if message.grammar:
                request.matcher = self._matcher(message.grammar, len(message.prompt))
            source = message.source if self.handoff is not None else None
            self.scheduler.add(request, parked=source is not None, beside=message.beside)
        except ValueError as error:
            return _gave_up(message.id, str(error))
        if self.handoff is not None and source is not None:
            self.handoff.await_blocks(request, source)
        return None

    def abort(self, ids: list[str]) -> None:
        """Forget requests and free their blocks."""
        self.scheduler.abort(ids)
        if self.handoff is not None:
            self.handoff.cancel(ids)
        if self._tier is not None:
            self._tier.cancel(ids)

    def start(self, wake: Callable[[], None]) -> None:
        """Let hand-offs and tiers begin; `wake` is called from other threads for `settle`."""
        if self.handoff is not None:
            self.handoff.start(wake)
        if self._tier is not None:
            self._tier.start(wake)
        if self.ranks is not None:
            self.ranks.heed(wake)
        self._adapters.start(wake)

    def close(self) -> None:
        """Keep for later what a tier keeps; the engine is of no use afterwards."""
        if self._tier is not None:
            self._tier.close()

    def change_adapters(self, message: LoadAdapter | UnloadAdapter) -> None:
        """Begin to load an adapter, or let no new request name one."""
        if isinstance(message, LoadAdapter):
            self._adapters.load(message)
        else:
            self._adapters.unload(message.name)

    def changed_adapters(self) -> list[AdapterChanged]:
        """Take over adapters that were loaded; return what came of them."""
        return self._adapters.settle(self.scheduler.adapters)

    def release(self, leases: list[str]) -> None:
        """End leases that nobody will pull."""
        if self.handoff is not None:
            self.handoff.release(leases)

    def settle(self) -> None:
        """Take note of what hand-offs and tiers have brought, or have given back.

        Raises:
            RankLost: another rank has ended.
        """
        if self.ranks is not None:
            self.ranks.check()
        for source in (self.handoff, self._tier):
            for request in source.settle() if source is not None else ():
                self.scheduler.unpark(request)

    def patience(self) -> float | None:
        """Return the seconds until `settle` or a deadline is due by the clock; None for never."""
        found = [source.patience() for source in (self.handoff, self._tier) if source is not None]
        deadline = self.scheduler.next_deadline
        found.append(None if deadline is None else max(0.0, deadline - self._clock()))
        return min((seconds for seconds in found if seconds is not None), default=None)

    def check(self) -> None:
        """Raise if the pool's books are wrong."""
        self.pool.check()

    def cache_changes(self) -> list[Any]:
        """Return what the prefix cache took in and gave up since the last call, for KV events."""
        return self.pool.log.take() if self.pool.log else []

    def give_up(self, reason: str) -> Batch:
        """End every request with an error; for when a step has failed."""
        ids = self.scheduler.ids()
        self.abort(ids)
        return Batch([_gave_up(request_id, reason) for request_id in ids], self.stats())

    def step(self) -> Batch:
        """Compute one step for everything that was scheduled, and return what came of it."""
        began = self._clock()
        expired = self._expire(began)
        draft(self.scheduler.running, self._proposer, self.scheduler.room)
        step = self.scheduler.schedule()
        self.stalled = not step.slices
        _note_queueing(step, began)
        lost = [self._lose(part, reason) for part, reason in constrain(step)]
        computed = self._runner.run(step.slices, step.copies) if step.slices else []
        self.scheduler.commit(step)
        reports = list(map(self._report, step.slices, computed))
        outputs = [output for output in reports if output is not None]
        stats = self.stats(step, self._clock() - began, drafted(step.slices, reports))
        self._prefill_budget.learn(
            stats.step_seconds, stats.prefill_tokens, stats.decode_tokens, stats.kv_tokens
        )
        return Batch(expired + lost + outputs, stats)

    def stats(
        self, step: Step | None = None, seconds: float = 0.0, guessed: Drafted | None = None
    ) -> Stats:
        """Return the engine's state; without a step, at rest."""
        slices = step.slices if step else []
        decoding = sum(1 for part in slices if part.start >= part.request.prompt_length)
        counts = self.pool.counts()
        scheduler = self.scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=scheduler.num_waiting + scheduler.num_parked,
            blocks_free=counts.free,
            blocks_cached=counts.cached,
            blocks_used=counts.used,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            preemptions=scheduler.preemptions,
            bounded_steps=scheduler.bounded_steps,
            step_seconds=seconds,
            prefill_tokens=sum(part.count for part in slices) - decoding,
            decode_tokens=decoding,
            kv_tokens=sum(part.start for part in slices),
            drafted=guessed,
            handoff=self.handoff.stats() if self.handoff is not None else None,
            tier=self._tier.stats() if self._tier is not None else None,
            leaving=self.ranks.leaving if self.ranks is not None else "",
        )

    def _expire(self, now: float) -> list[Output]:
        """Give up what is past its deadline, so that no step is spent on an answer nobody reads."""
        overdue = self.scheduler.overdue(now)
        self.abort(overdue)
        return [
            Output(id=request_id, tokens=[], finish_reason=FinishReason.DEADLINE)
            for request_id in overdue
        ]

    def _matcher(self, grammar: str, start: int) -> Matcher:
        if self._grammars is None:
            raise ValueError("this engine has no tokenizer to read a grammar with")
        return self._grammars.matcher(grammar, start)

    def _lose(self, part: Slice, reason: str) -> Output:
        self.scheduler.finish(part.request)
        return _gave_up(part.request.id, reason)

    def _report(self, part: Slice, found: SliceOutput) -> Output | None:
        """Take over what came of a slice; None when there is nothing to tell of it yet."""
        request = part.request
        if found.scores:
            request.scores += found.scores
        if not found.sampled:
            return None
        first = request.output_length == request.resumed_at
        tokens, logprobs, reason = advance(request, part.drafts, found.sampled)
        kept = None
        if reason is not None:
            if request.keep and self.handoff is not None:
                kept = self.handoff.keep(request)
            self.scheduler.finish(request)
        return Output(
            id=request.id,
            tokens=tokens,
            finish_reason=reason,
            logprobs=logprobs,
            prompt_logprobs=request.scores if first else [],
            cached_tokens=request.cached_tokens,
            queue_seconds=request.queue_seconds if first else 0.0,
            kept=kept,
        )


def _note_queueing(step: Step, now: float) -> None:
    for request in step.admitted:
        request.queue_seconds = max(0.0, now - request.arrived_at)


def _gave_up(request_id: str, error: str) -> Output:
    return Output(id=request_id, tokens=[], finish_reason=FinishReason.ABORT, error=error)
