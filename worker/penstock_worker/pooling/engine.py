"""The engine of models that compute inputs only: take inputs in turn → compute → tell.

It speaks the same messages over the same socket as the engine that generates. Nothing lives between
two steps but what waits, so there are no blocks, no preemption and nothing to hand over.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock_worker.messages import (
    AdapterChanged,
    AddInputs,
    AddRequest,
    Batch,
    FinishReason,
    LoadAdapter,
    Output,
    Stats,
    UnloadAdapter,
)
from penstock_worker.pooling.fairness import FairQueue, Job
from penstock_worker.pooling.inputs import Input
from penstock_worker.pooling.model import PoolingModel


class PoolingEngine:
    """Computes inputs of many requests at once.

    Args:
        model: computes a batch.
        vocab_size: token ids run up to it.
        max_tokens: longest input.
        max_num_seqs: inputs of a step.
        max_num_batched_tokens: token budget of a step; a longer input has one of its own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: PoolingModel,
        *,
        vocab_size: int,
        max_tokens: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stalled = False
        self._model = model
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._clock = clock
        self._queue = FairQueue()
        self._inputs: dict[str, AddInputs] = {}

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._queue.jobs)

    def add(self, message: AddRequest | AddInputs) -> Output | None:
        """Accept a request; an Output is a refusal, with the reason."""
        if isinstance(message, AddRequest):
            return _gave_up(message.id, "this model generates nothing")
        wrong = self._problem(message)
        if wrong is not None:
            return _gave_up(message.id, wrong)
        now = self._clock()
        self._inputs[message.id] = message
        self._queue.add(
            Job(
                message.id,
                [len(tokens) for tokens in message.inputs],
                message.priority,
                None if message.deadline is None else now + message.deadline,
                arrived=now,
            )
        )
        return None

    def abort(self, ids: list[str]) -> None:
        """Forget requests."""
        self._queue.remove(ids)
        for request_id in ids:
            self._inputs.pop(request_id, None)

    def step(self) -> Batch:
        """Compute as many inputs as a step takes, and return what came of them."""
        began = self._clock()
        expired = self._expire(began)
        taken = self._queue.take(self._max_num_batched_tokens, self._max_num_seqs)
        for job, _ in taken:
            job.begun = began if job.begun is None else job.begun
        found = self._compute(taken)
        outputs = [self._output(job, places, found) for job, places in _by_job(taken)]
        tokens = sum(job.sizes[index] for job, index in taken)
        requests = len({job.id for job, _ in taken})
        stats = self.stats(requests, tokens, self._clock() - began)
        return Batch(expired + outputs, stats)

    def stats(self, running: int = 0, tokens: int = 0, seconds: float = 0.0) -> Stats:
        """Return the engine's state; without a step, at rest."""
        return Stats(
            running=running,
            waiting=self._queue.waiting,
            blocks_free=0,
            blocks_cached=0,
            blocks_used=0,
            prefix_queries=0,
            prefix_hits=0,
            preemptions=0,
            bounded_steps=0,
            step_seconds=seconds,
            prefill_tokens=tokens,
            decode_tokens=0,
        )

    def give_up(self, reason: str) -> Batch:
        """End every request with an error; for when a step has failed."""
        ids = list(self._queue.jobs)
        self.abort(ids)
        return Batch([_gave_up(request_id, reason) for request_id in ids], self.stats())

    # What an engine that keeps blocks has to do between steps.

    def start(self, wake: Callable[[], None]) -> None:
        """There are no other threads to be woken by."""

    def close(self) -> None:
        """Nothing is kept for later."""

    def change_adapters(self, message: LoadAdapter | UnloadAdapter) -> None:
        """Adapters are for models that generate: the server has refused them."""

    def changed_adapters(self) -> list[AdapterChanged]:
        """See `change_adapters`."""
        return []

    def release(self, leases: list[str]) -> None:
        """There is nothing to lease."""

    def settle(self) -> None:
        """Nothing comes from elsewhere."""

    def patience(self) -> float | None:
        """Nothing is due by the clock."""
        return None

    def check(self) -> None:
        """There is no pool whose books could be wrong."""

    def cache_changes(self) -> list[Any]:
        """There is no cache."""
        return []

    def _compute(self, taken: Sequence[tuple[Job, int]]) -> list[bytes]:
        inputs = []
        for job, index in taken:
            message = self._inputs[job.id]
            second = message.seconds[index] if message.seconds else 0
            inputs.append(Input(message.inputs[index], second))
        if not inputs:
            return []
        return [row.tobytes() for row in self._model.compute(inputs).numpy()]

    def _output(self, job: Job, places: list[tuple[int, int]], found: list[bytes]) -> Output:
        """Return what a step brought for a request: places are (in the step, in the request)."""
        first = job.left == len(job.sizes)
        job.left -= len(places)
        if not job.left:
            self._queue.complete(job)
            del self._inputs[job.id]
        return Output(
            id=job.id,
            tokens=[],
            finish_reason=None if job.left else FinishReason.STOP,
            queue_seconds=(job.begun or job.arrived) - job.arrived if first else 0.0,
            vectors={index: found[place] for place, index in places},
        )

    def _expire(self, now: float) -> list[Output]:
        overdue = self._queue.overdue(now)
        self.abort(overdue)
        return [
            Output(id=request_id, tokens=[], finish_reason=FinishReason.DEADLINE)
            for request_id in overdue
        ]

    def _problem(self, message: AddInputs) -> str | None:
        if not message.inputs:
            return "there must be an input"
        if message.seconds and len(message.seconds) != len(message.inputs):
            return "seconds must be as many as inputs"
        for tokens in message.inputs:
            if not 0 < len(tokens) <= self._max_tokens:
                return f"an input must have 1 to {self._max_tokens} tokens"
            if not 0 <= min(tokens) <= max(tokens) < self._vocab_size:
                return f"token ids must be 0 to {self._vocab_size - 1}"
        return None


def _by_job(taken: Sequence[tuple[Job, int]]) -> list[tuple[Job, list[tuple[int, int]]]]:
    """Return each request of a step with its inputs' places in the step and in the request."""
    found: dict[str, tuple[Job, list[tuple[int, int]]]] = {}
    for place, (job, index) in enumerate(taken):
        found.setdefault(job.id, (job, []))[1].append((place, index))
    return list(found.values())


def _gave_up(request_id: str, error: str) -> Output:
    return Output(id=request_id, tokens=[], finish_reason=FinishReason.ABORT, error=error)
