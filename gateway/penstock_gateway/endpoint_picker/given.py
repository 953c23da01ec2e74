"""A request that a worker has, until its answer has passed by: what the router learns of it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock_contract import headers
from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault, Outcome
from penstock_gateway.endpoint_picker.answer import DOWN, Answer, Verdict
from penstock_gateway.endpoint_picker.endpoints import endpoint
from penstock_gateway.endpoint_picker.paces import Pace
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.permit import Permit
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.ticket import Prompt, Ticket

if TYPE_CHECKING:
    from penstock_gateway.endpoint_picker.picker import Picker

log = logging.getLogger("penstock.picker")


class Given:
    """One request at the worker that was chosen for it.

    Args:
        picker: what all requests share.
        choices: the worker, and those that the gateway may try after it; one at least.
        prompt: what routing knows of the request.
        metrics: of it.
        permit: by which it was let through.
        fingerprint: what tells it from others.
        path: of it.
        stream: it asks for a stream.
    """

    def __init__(
        self,
        picker: "Picker",
        choices: Sequence[tuple[Choice, FleetWorker]],
        prompt: Prompt,
        metrics: RequestMetrics,
        permit: Permit,
        fingerprint: int,
        path: str,
        *,
        stream: bool,
    ) -> None:
        self._picker = picker
        self._named = [(endpoint(worker), choice) for choice, worker in choices]
        self._prompt = prompt
        self._metrics = metrics
        self._permit = permit
        self._fingerprint = fingerprint
        self._path = path
        self._asks_stream = stream
        self._over = False
        self._ticket = self._take()
        self._answer: Answer | None = None
        self._epoch = b""
        self._pace: Pace | None = None

    def begins(self, status: int, found: dict[str, str], served: str) -> None:
        """The head of the answer has come.

        Args:
            status: of it.
            found: its headers, names in lower case.
            served: endpoint that it comes from; empty: the gateway does not tell.
        """
        self._follow(served)
        self._answer = Answer(status, found, self._path, stream=self._asks_stream)
        self._epoch = found.get(headers.EPOCH, "").encode("latin-1", "replace")
        if self._answer.streams:
            self._pace = self._picker.paces.begin(self._ticket.worker)

    def goes_on(self, data: bytes, *, ends: bool) -> None:
        """A piece of the answer passes by."""
        answer, ticket = self._answer, self._ticket
        if answer is None or self._over:
            return
        answer.feed(data)
        if data and self._pace is not None:
            now = self._picker.clock()
            if not ticket.begun:
                self._began(answer, now)
            self._pace.heard(now)
        if ends:
            self._ended(answer, answer.verdict())

    def unread(self) -> None:
        """The gateway has shown the head of an answer, and shows nothing of its body."""
        if self._answer is not None and not self._over:
            self._ended(self._answer, self._answer.verdict_by_head())

    def cut(self) -> None:
        """Nothing more will come: the client has left, or the worker is lost, or all is done."""
        if self._over:
            return
        if self._answer is not None and self._answer.whole:
            self._ended(self._answer, self._answer.verdict())
            return
        self._untold(Outcome.CANCELLED)

    def _take(self) -> Ticket:
        """Give the request to the first of the workers that are left."""
        now = self._picker.clock()
        return self._picker.router.take(self._named[0][1], self._prompt, now)

    def _follow(self, served: str) -> None:
        """Take note of who has answered: those before it did not."""
        names = [name for name, _ in self._named]
        if served not in names:
            return
        for _ in range(names.index(served)):
            self._account(Verdict.of(Fault.UNREACHABLE), counts=True)
            self._metrics.retried()
            self._named.pop(0)
            self._ticket = self._take()

    def _began(self, answer: Answer, now: float) -> None:
        """The worker answers."""
        picker = self._picker
        if picker.quarantine:
            picker.quarantine.clear(self._fingerprint)
        prediction = picker.router.answered(self._ticket, now, answer.usage(), self._epoch)
        self._metrics.first_byte(now)
        if prediction is not None:
            self._metrics.prefix(*prediction)

    def _ended(self, answer: Answer, verdict: Verdict | None) -> None:
        """All of the answer has come."""
        if verdict is None:
            self._untold(Outcome.ERROR)
            return
        if verdict.fault is None and not self._ticket.begun:
            self._began(answer, self._picker.clock())
        elif verdict.fault is None:
            prediction = self._picker.router.told(self._ticket, answer.usage())
            if prediction is not None:
                self._metrics.prefix(*prediction)
        self._finish(verdict, counts=verdict.fault is not Fault.LEAVING)

    def _untold(self, outcome: Outcome) -> None:
        """Nobody says how the worker did; it can be asked."""
        worker = self._ticket.worker
        self._finish(Verdict(outcome=outcome), counts=False)
        self._picker.doubts.raise_one(worker)

    def _finish(self, verdict: Verdict, *, counts: bool) -> None:
        """Give everything back."""
        self._over = True
        if self._pace is not None:
            whole = verdict.outcome is Outcome.COMPLETE
            self._picker.paces.end(self._ticket.worker, self._pace, whole=whole)
        self._account(verdict, counts=counts)
        self._permit.release()
        self._metrics.ended(verdict.outcome, self._picker.clock())

    def _account(self, verdict: Verdict, *, counts: bool) -> None:
        """Tell the router how the worker did that had the request."""
        picker, worker = self._picker, self._ticket.worker
        now, down = picker.clock(), verdict.fault in DOWN
        picker.router.ended(
            self._ticket,
            counts=counts,
            failed=verdict.failed,
            down_at=now if down else None,
            erred_at=now if counts and verdict.failed else None,
            broken_off_at=now if verdict.broken_off else None,
        )
        if verdict.fault is None:
            return
        log.warning("worker %s did not finish a request: %s", worker, verdict.fault.value)
        self._metrics.fault(verdict.fault)
        if verdict.fault in (Fault.LOST, Fault.FAILED):
            picker.quarantine.suspect(self._fingerprint, worker, now)
