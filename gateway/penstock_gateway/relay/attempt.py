"""One request at one worker: asks, relays the answer, and accounts for how the worker did.

The head of an answer is held until the first event is there, and an answer that is not streamed
until it is whole: what fails before that is tried elsewhere, and the client sees nothing of it.
"""

from typing import Final
from urllib.parse import urlsplit

from penstock_contract import headers, journal
from penstock_contract.errors import ErrorCode
from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault, Outcome
from penstock_gateway.relay.client import Client, is_stream
from penstock_gateway.relay.context import AdmittedRequest, RelayContext, RequestProgress
from penstock_gateway.relay.handoff import decode_body
from penstock_gateway.relay.record import error_code
from penstock_gateway.relay.request import with_field, worker_request
from penstock_gateway.relay.send import send
from penstock_gateway.relay.upstream import Connection, Response, UpstreamError
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prompt_usage import PromptUsage, of_answer, of_stream
from penstock_gateway.routing.ticket import Ticket

MAX_HELD: Final = 1 << 20
"""Bytes of an answer that is not streamed, held until it is whole; a longer one goes on before."""

STREAMED: Final = ("/v1/chat/completions", "/v1/completions")
"""Paths whose streams can be continued."""

_DOWN: Final = (Fault.UNREACHABLE, Fault.LOST, Fault.HUNG, Fault.GARBAGE, Fault.FAILED)
"""After these a worker is put aside until a probe has found it well."""

_FAULT_OF_CODE: Final = {
    ErrorCode.SHUTTING_DOWN.code: Fault.LEAVING,
    ErrorCode.HANDED_BACK.code: Fault.LEAVING,
    ErrorCode.INTERNAL_ERROR.code: Fault.FAILED,
    ErrorCode.NO_CAPACITY.code: Fault.REFUSED,
}
"""Errors of a worker that say nothing against the request: another worker may do better."""

_SERVER_ERRORS: Final = ErrorCode.INTERNAL_ERROR.status
"""From this status on."""
_UNKNOWN_KEY: Final = ErrorCode.INVALID_API_KEY.status
_EPOCH: Final = headers.EPOCH.encode()
_UNKNOWN: Final = PromptUsage()


class RefusalError(UpstreamError):
    """A worker's own refusal: the client's, when no other worker does better."""

    def __init__(self, response: Response, body: bytes) -> None:
        fault = _FAULT_OF_CODE.get(error_code(body), Fault.REFUSED)
        super().__init__(f"it answered with status {response.status}", fault)
        self.response = response
        self.body = body


class Attempt:
    """A request at a worker."""

    def __init__(
        self,
        context: RelayContext,
        admitted: AdmittedRequest,
        client: Client,
        progress: RequestProgress,
        worker: FleetWorker,
        choice: Choice,
    ) -> None:
        self.begun = False
        """Something of this attempt has gone to the client."""
        self._context = context
        self._admitted = admitted
        self._client = client
        self._progress = progress
        self._worker = worker
        self._choice = choice
        # What comes of pulled KV teaches nothing about how fast the worker computes prompts.
        prompt = progress.prompt.told_by(stream=False) if progress.handoff else progress.prompt
        self._ticket = context.router.take(choice, prompt, context.clock())

    async def run(self) -> Outcome:
        """Have the worker answer, and relay that.

        Raises:
            UpstreamError: it did not answer to the end.
        """
        connection: Connection | None = None
        counts = failed = down = False  # a client that leaves says nothing about the worker
        try:
            connection, response = await send(
                self._context, self._admitted.metrics, self._worker, self._request_bytes()
            )
            outcome = await self._relay(response, connection)
            counts, failed = True, response.status >= _SERVER_ERRORS
            return outcome
        except UpstreamError as error:
            counts, failed = error.fault is not Fault.LEAVING, True
            down = error.fault in _DOWN
            raise
        finally:
            self._account(self._ticket, counts=counts, failed=failed, down=down)
            self._return_unused_lease()
            if connection is not None:
                self._context.watchdog.end(self._worker.id, connection)
                self._context.pool.give_back(self._worker.url, connection)

    def _account(self, ticket: Ticket, *, counts: bool, failed: bool, down: bool) -> None:
        """A stream that this gateway cut at its own end is not its worker's failure."""
        fair = not self._context.stopping()
        now = self._context.clock()
        self._context.router.ended(
            ticket,
            counts=counts and fair,
            failed=failed,
            down_at=now if down and fair else None,
            erred_at=now if counts and failed and fair else None,
        )

    def _return_unused_lease(self) -> None:
        """KV that was not used at once will not be."""
        handoff, self._progress.handoff = self._progress.handoff, None
        if handoff is not None and not self.begun:
            self._context.leases.give_back(handoff)

    def _request_bytes(self) -> bytes:
        """Return the request, or what is left of it, as it goes to the worker."""
        admitted, path = self._admitted, self._admitted.call.path
        body, own = admitted.body, [*self._context.token, *admitted.tenant_request.trusted_headers]
        if self._progress.number > 1:
            own.append((headers.ATTEMPT, str(self._progress.number)))
        if admitted.parsed.stream and admitted.model.resume_streams and path in STREAMED:
            own.append((headers.JOURNAL, "1"))
        if admitted.model.tpot is not None:
            own.append((headers.TPOT_OBJECTIVE, str(admitted.model.tpot)))
        resume = self._progress.record.resume() if self._client.begun else None
        if self._progress.handoff is not None:
            body = decode_body(body, self._progress.handoff.params)
            own.append((headers.HANDOFF, "1"))
        if resume is not None:
            body = with_field(body, journal.FIELD, resume.model_dump_json().encode())
        host, incoming = urlsplit(self._worker.url).netloc, admitted.call.headers
        return worker_request(path, host, self._progress.id, incoming, body, own)

    async def _relay(self, response: Response, connection: Connection) -> Outcome:
        if response.status == 200 and is_stream(response):
            return await self._relay_stream(response, connection)
        return await self._relay_whole(response, connection)

    async def _relay_stream(self, response: Response, connection: Connection) -> Outcome:
        """Relay a stream, event by event."""
        record, client = self._progress.record, self._client

        def take(data: bytes) -> bool:
            events = record.feed(data)
            if events and not self.begun:
                self._begin(response, of_stream(data))
            keeps_up = not events or client.pass_on(events)
            return keeps_up and not record.stopped

        try:
            while await connection.pump(take) and not record.stopped:
                await client.caught_up()
        except UpstreamError:
            if not record.done:  # what is missing after [DONE] is nobody's loss
                raise
        if record.done:
            client.end()
            return Outcome.COMPLETE
        return self._relay_error(response)

    def _relay_error(self, response: Response) -> Outcome:
        """Pass on the error with which a worker ended a stream, if that is the request's own."""
        record = self._progress.record
        if record.error is None:
            raise UpstreamError("what it sends is not the rest of a stream", Fault.GARBAGE)
        code = error_code(record.error.removeprefix(b"data: "))
        if code in _FAULT_OF_CODE:
            raise UpstreamError(f"it ended a stream with {code}", _FAULT_OF_CODE[code])
        if not self.begun:
            self._begin(response)
        self._client.pass_on(record.error)
        return Outcome.ERROR

    async def _relay_whole(self, response: Response, connection: Connection) -> Outcome:
        """Relay an answer that is not streamed."""
        if self._client.begun:
            reason = f"it answered with status {response.status} when asked to go on"
            raise UpstreamError(reason, Fault.REFUSED)
        held = b""
        while data := await connection.piece():
            held = data if self.begun else held + data
            if not self.begun and len(held) > MAX_HELD:
                self._begin(response)
            if self.begun and not self._client.pass_on(held):
                await self._client.caught_up()
        if not self.begun:
            self._begin(response, self._checked(response, held))
            self._client.pass_on(held)
        self._client.end()
        failed = response.status >= _SERVER_ERRORS
        return Outcome.ERROR if failed else Outcome.COMPLETE

    def _checked(self, response: Response, body: bytes) -> PromptUsage:
        """Return what a whole answer tells, unless it must not go on to the client as it is."""
        if response.status == _UNKNOWN_KEY:  # ours, not the client's
            raise UpstreamError("it does not know this gateway's token", Fault.REFUSED)
        if response.status >= 500 and response.status != ErrorCode.DEADLINE_EXCEEDED.status:
            raise RefusalError(response, body)
        if response.status != 200:
            return _UNKNOWN
        streams = self._admitted.parsed.stream and self._admitted.call.path in STREAMED
        usage = None if streams else of_answer(body)
        if usage is None:
            raise UpstreamError("it answered with something else than asked for", Fault.GARBAGE)
        return usage

    def _begin(self, response: Response, usage: PromptUsage = _UNKNOWN) -> None:
        """The answer begins, or goes on."""
        self.begun = True
        if self._context.quarantine:
            self._context.quarantine.clear(self._admitted.fingerprint)
        now, metrics = self._context.clock(), self._admitted.metrics
        epoch = response.header(_EPOCH)
        prediction = self._context.router.answered(self._ticket, now, usage, epoch)
        if prediction is not None:
            metrics.prefix(*prediction)
        if self._client.begun:
            metrics.resumed(self._progress.fault, now - self._progress.broken_at)
        else:
            metrics.first_byte(now)
            self._client.begin(response, self._choice)
