"""The engine: schedule → run → commit, and what each step has to tell.

It owns the requests; it knows neither sockets nor torch. `step` is the whole of continuous batching
in one screen.
"""

import time
from collections.abc import Callable

from penstock_worker.block_pool import BlockPool
from penstock_worker.grammar import GrammarError, Grammars, Matcher
from penstock_worker.messages import (
    AddRequest,
    Batch,
    FinishReason,
    Output,
    Stats,
    TokenLogprobs,
)
from penstock_worker.request import Request
from penstock_worker.runner_interface import Runner, Sampled
from penstock_worker.scheduler import Scheduler, Step
from penstock_worker.validation import problem


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self.scheduler = Scheduler(pool, max_num_seqs, max_num_batched_tokens)
        self._runner = runner
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._grammars = grammars
        self._clock = clock
        self._arrivals = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.scheduler.running or self.scheduler.num_waiting)

    def add(self, message: AddRequest) -> Output | None:
        """Accept a request; an Output is a refusal, with the reason."""
        wrong = problem(message, vocab_size=self._vocab_size, max_model_len=self._max_model_len)
        if wrong is not None:
            return _gave_up(message.id, wrong)
        self._arrivals += 1
        request = Request.from_message(
            message,
            arrival=self._arrivals,
            now=self._clock(),
            max_model_len=self._max_model_len,
        )
        try:
            if message.grammar:
                request.matcher = self._matcher(message.grammar)
            self.scheduler.add(request)
        except ValueError as error:
            return _gave_up(message.id, str(error))
        return None

    def abort(self, ids: list[str]) -> None:
        """Forget requests and free their blocks."""
        self.scheduler.abort(ids)

    def give_up(self, reason: str) -> Batch:
        """End every request with an error; for when a step has failed."""
        ids = self.scheduler.ids()
        self.abort(ids)
        return Batch([_gave_up(request_id, reason) for request_id in ids], self.stats())

    def step(self) -> Batch:
        """Compute one step for everything that was scheduled, and return what came of it."""
        began = self._clock()
        expired = self._expire(began)
        step = self.scheduler.schedule()
        _note_queueing(step, began)
        lost = self._constrain(step)
        sampled = iter(self._runner.run(step.slices) if step.slices else [])
        self.scheduler.commit(step)
        outputs = [
            self._append(part.request, next(sampled)) for part in step.slices if part.samples
        ]
        return Batch(expired + lost + outputs, self.stats(step, self._clock() - began))

    def stats(self, step: Step | None = None, seconds: float = 0.0) -> Stats:
        """Return the engine's state; without a step, at rest."""
        slices = step.slices if step else []
        decoding = sum(1 for part in slices if part.start >= part.request.prompt_length)
        counts = self.pool.counts()
        scheduler = self.scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=scheduler.num_waiting,
            blocks_free=counts.free,
            blocks_cached=counts.cached,
            blocks_used=counts.used,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            preemptions=scheduler.preemptions,
            step_seconds=seconds,
            prefill_tokens=sum(part.count for part in slices) - decoding,
            decode_tokens=decoding,
            kv_tokens=sum(part.start for part in slices),
        )

    def _expire(self, now: float) -> list[Output]:
        """Give up what is past its deadline, so that no step is spent on an answer nobody reads."""
        overdue = self.scheduler.overdue(now)
        self.scheduler.abort(overdue)
        return [
            Output(id=request_id, tokens=[], finish_reason=FinishReason.DEADLINE)
            for request_id in overdue
        ]

    def _matcher(self, grammar: str) -> Matcher:
        if self._grammars is None:
            raise ValueError("this engine has no tokenizer to read a grammar with")
        return self._grammars.matcher(grammar)

    def _constrain(self, step: Step) -> list[Output]:
        """Find what may be drawn; a request whose grammar has become too complex leaves the step.

        Each mask is a function of the tokens so far: preemption or a resumption changes nothing.
        """
        lost: list[Output] = []
        for part in list(step.slices):
            request = part.request
            if request.matcher is None or not part.samples:
                continue
            try:
                request.allowed = request.matcher.allowed(request.tokens[request.prompt_length :])
            except GrammarError as error:
                step.slices.remove(part)
                self.scheduler.finish(request)
                lost.append(_gave_up(request.id, f"the grammar cannot be followed: {error}"))
        return lost

    def _append(self, request: Request, sampled: Sampled) -> Output:
        token, logprobs = sampled
        request.tokens.append(token)
        reason = _finish_reason(request, token)
        if reason is not None:
            self.scheduler.finish(request)
        return Output(
            id=request.id,
            tokens=[token],
            finish_reason=reason,
            logprobs=_listed(logprobs),
            cached_tokens=request.cached_tokens,
            queue_seconds=request.queue_seconds if _is_first(request) else 0.0,
        )


def _note_queueing(step: Step, now: float) -> None:
    for request in step.admitted:
        request.queue_seconds = max(0.0, now - request.arrived_at)


def _is_first(request: Request) -> bool:
    """Whether the latest token is the first that this engine drew for the request."""
    return request.output_length == request.resumed_at + 1


def _finish_reason(request: Request, token: int) -> FinishReason | None:
    # Before min_tokens a stop token is drawn only where a grammar leaves nothing else.
    if token in request.stop_tokens and (request.matcher or _is_long_enough(request)):
        return FinishReason.STOP
    if len(request.tokens) >= request.max_length:
        return FinishReason.LENGTH
    return None


def _is_long_enough(request: Request) -> bool:
    return request.output_length >= request.min_tokens


def _gave_up(request_id: str, error: str) -> Output:
    return Output(id=request_id, tokens=[], finish_reason=FinishReason.ABORT, error=error)


def _listed(logprobs: TokenLogprobs | None) -> list[TokenLogprobs]:
    return [] if logprobs is None else [logprobs]
