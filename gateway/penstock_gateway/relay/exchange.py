"""Carries one request from worker to worker until it is answered.

Until the client has seen something, a worker that fails costs a retry on the next best one. After
that a stream that can be continued goes on at another worker where it broke; one that cannot, or
not any further, ends with an error event and an unclean close, and what is not a stream with an
unclean close alone, so that no client takes a part for the whole.
"""

import asyncio
import logging
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from penstock_contract import headers
from penstock_contract.api.engine import EngineType
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault, Outcome
from penstock_gateway.relay.attempt import Attempt, RefusalError
from penstock_gateway.relay.client_answer import ClientAnswer
from penstock_gateway.relay.context import AdmittedRequest, RelayContext, RequestProgress
from penstock_gateway.relay.continuable import plan
from penstock_gateway.relay.decisions import Decision
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.prefill import hand_over
from penstock_gateway.relay.response import UpstreamError
from penstock_gateway.relay.resumable_stream import ResumableStream
from penstock_gateway.relay.token_stream import TokenStream
from penstock_gateway.routing.canary import attempts, preferred, session_key
from penstock_gateway.routing.policy import Choice

log = logging.getLogger("penstock.gateway.relay")

STREAM_ATTEMPTS: Final = 3
"""Workers that a stream may be given to; those that left in good order do not count."""
DEADLY: Final = (Fault.LOST, Fault.HUNG, Fault.FAILED)
"""After these the request itself is suspected."""
PATIENCE: Final = 10.0
"""Seconds that a broken stream waits for a worker, when there is none left to go on."""

_REQUEST_ID: Final = headers.REQUEST_ID.encode()

Workers = Callable[[], Sequence[FleetWorker]]
"""Returns those that take requests now."""


class Exchange:
    """One request on its way."""

    def __init__(
        self,
        context: RelayContext,
        admitted: AdmittedRequest,
        workers: Workers,
        prefill_workers: Workers,
    ) -> None:
        self._context = context
        self._admitted = admitted
        self._workers = workers
        self._prefill_workers = prefill_workers
        self._received = context.clock()
        request_id = headers.request_id(admitted.call.header(_REQUEST_ID))
        self._progress = RequestProgress(request_id, _stream(admitted))
        self._tried: list[Choice] = []
        self._failures = 0
        self._revision = ""
        self._quarantined = False

    async def run(self) -> Outcome:
        """Have the request answered.

        Raises:
            ApiError: nobody did; nothing was sent yet.
        """
        debug = self._context.debug_headers
        admitted = self._admitted
        answer = ClientAnswer(
            admitted.call,
            self._progress.id,
            admitted.tenant_request,
            admitted.waited,
            debug_headers=debug,
        )
        workers = await self._prefilled()
        while True:
            choice = self._choose(workers)
            worker = next(worker for worker in workers if worker.id == choice.id)
            attempt = self._start_attempt(answer, worker, choice)
            try:
                return await attempt.run()
            except StarvedError as error:  # no other worker could do better
                if not answer.begun:
                    raise
                answer.break_off(error)
                return Outcome.ERROR
            except UpstreamError as error:
                self._note_failure(choice, error)
                workers = await self._candidates(answer)
                if not workers:
                    return await self._give_up(answer, error)
                if not answer.begun:
                    self._admitted.metrics.retried()

    async def _prefilled(self) -> list[FleetWorker]:
        """Have the prompt computed elsewhere if that is sooner; return who may decode then."""
        workers, elsewhere = list(self._workers()), self._prefill_workers()
        if not elsewhere:
            return workers
        context, admitted, progress = self._context, self._admitted, self._progress
        decode = self._choose(workers)
        progress.handoff = await hand_over(context, admitted, progress, elsewhere, decode)
        return list(self._workers()) or workers

    def _start_attempt(self, answer: ClientAnswer, worker: FleetWorker, choice: Choice) -> Attempt:
        context, admitted, progress = self._context, self._admitted, self._progress
        progress.number += 1
        progress.stream.restart(begun=answer.begun)
        self._tried.append(choice)
        self._revision = worker.revision
        now = context.clock()
        admitted.metrics.dispatched(self._received, now)
        name, waited = admitted.model.name, admitted.waited
        context.decisions.note(Decision(now, progress.id, name, progress.number, choice, waited))
        return Attempt(context, admitted, answer, progress, worker, choice)

    def _note_failure(self, choice: Choice, error: UpstreamError) -> None:
        log.warning("worker %s did not finish a request: %s", choice.id, error)
        self._admitted.metrics.fault(error.fault)
        self._progress.broken_at = self._context.clock()
        self._progress.fault = error.fault
        self._failures += error.fault is not Fault.LEAVING
        if error.fault in DEADLY:
            suspected, now = self._admitted.fingerprint, self._progress.broken_at
            self._quarantined = self._context.quarantine.suspect(suspected, choice.id, now)

    async def _candidates(self, answer: ClientAnswer) -> list[FleetWorker]:
        """Return the workers that may go on with the request; none when it ends here."""
        most = self._admitted.model.attempts
        if self._quarantined:
            return []
        if not answer.begun:
            found = self._untried() if self._failures < most else []
            return found if found and self._within_retry_budget() else []
        if not self._progress.stream.resumable or self._failures >= max(most, STREAM_ATTEMPTS):
            return []
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not self._untried() and not self._context.stopping():
                    await self._context.change().wait()
        found = self._untried()
        # Another revision may be another model: better than no answer, worse than the same.
        return [worker for worker in found if worker.revision == self._revision] or found

    def _within_retry_budget(self) -> bool:
        """Return whether a request may be sent once more without a storm of retries."""
        if self._progress.fault is Fault.LEAVING or self._context.budget.spend():
            return True
        self._admitted.metrics.retry_denied()
        return False

    def _untried(self) -> list[FleetWorker]:
        if self._context.stopping():
            return []
        tried = {choice.id for choice in self._tried}
        return [worker for worker in self._workers() if worker.id not in tried]

    def _choose(self, workers: Sequence[FleetWorker]) -> Choice:
        """Return the worker to try next."""
        model, prompt = self._admitted.model, self._admitted.prompt
        if model.canary is None:
            return self._ranked(workers, None)[0]
        session = session_key(
            prompt.session, prompt.keys, self._admitted.parsed.prompt or self._admitted.body
        )
        ranking = self._ranked(workers, preferred(workers, model.canary, session))
        revision = model.canary.revision
        trial = frozenset(worker.id for worker in self._workers() if worker.revision == revision)
        return attempts([*self._tried, *ranking], trial, len(self._tried) + 1)[-1]

    def _ranked(
        self, workers: Sequence[FleetWorker], preferred: frozenset[str] | None
    ) -> list[Choice]:
        return self._context.router.rank(
            workers,
            self._admitted.prompt,
            tie=random.random(),
            now=self._context.clock(),
            policy=self._admitted.model.policy,
            preferred=preferred,
            most=1 if preferred is None else sys.maxsize,
        )

    async def _give_up(self, answer: ClientAnswer, error: UpstreamError) -> Outcome:
        """End a request that nobody goes on with.

        Raises:
            ApiError: nothing was sent yet.
        """
        if answer.begun:
            message = "The worker was lost while it answered; the answer is incomplete."
            answer.break_off(ApiError(ErrorCode.UPSTREAM_FAILED, message))
            return Outcome.ERROR
        if self._context.stopping():
            raise ApiError(ErrorCode.SHUTTING_DOWN, "The gateway is stopping.")
        if isinstance(error, RefusalError):
            answer.begin(error.response, self._tried[-1])
            answer.pass_on(error.body)
            answer.end()
            return Outcome.ERROR
        name = self._admitted.model.name
        raise ApiError(ErrorCode.UPSTREAM_FAILED, f"No worker of {name!r} could answer.")


def _stream(admitted: AdmittedRequest) -> ResumableStream:
    """Return the stream that a request asks for, if it asks for one."""
    model, parsed = admitted.model, admitted.parsed
    if model.engine is EngineType.PENSTOCK or not (parsed.stream and model.resume_streams):
        return ResumableStream()
    found = plan(parsed.outline, admitted.call.path, model.parsers)
    return ResumableStream() if found is None else TokenStream(found)
