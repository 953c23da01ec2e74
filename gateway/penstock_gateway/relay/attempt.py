"""One request at one worker: asks, relays the answer, and accounts for how the worker did.

The head of an answer is held until the first event is there, and an answer that is not streamed
until it is whole: what fails before that is tried elsewhere, and the client sees nothing of it.
"""

from typing import Final
from urllib.parse import urlsplit

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault, Outcome
from penstock_contract.tasks import SPEECH_PATHS
from penstock_gateway.relay.client_answer import ClientAnswer, is_stream
from penstock_gateway.relay.context import AdmittedRequest, RelayContext, RequestProgress
from penstock_gateway.relay.handoff import decode_body
from penstock_gateway.relay.read_back import text_of
from penstock_gateway.relay.request import worker_request
from penstock_gateway.relay.response import Response, UpstreamError
from penstock_gateway.relay.resumable_stream import ABORTED, error_code
from penstock_gateway.relay.send import send
from penstock_gateway.relay.upstream import Connection
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prompt_usage import PromptUsage, first_token_of, of_answer, of_stream
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
_TTFT: Final = headers.TTFT_MS.encode()
_UNKNOWN: Final = PromptUsage()


class RefusalError(UpstreamError):
    """A worker's own refusal: the client's, when no other worker does better."""

    def __init__(self, response: Response, body: bytes) -> None:
        fault = _FAULT_OF_CODE.get(error_code(body), Fault.REFUSED)
        super().__init__(f"it answered with status {response.status}", fault)
        self.response = response
        self.body = body


class BrokenOffError(UpstreamError):
    """A worker gave up an answer as one does that leaves, whether it leaves or not."""

    def __init__(self) -> None:
        super().__init__("it broke off what it was answering", Fault.LEAVING)


class Attempt:
    """A request at a worker."""

    def __init__(
        self,
        context: RelayContext,
        admitted: AdmittedRequest,
        answer: ClientAnswer,
        progress: RequestProgress,
        worker: FleetWorker,
        choice: Choice,
    ) -> None:
        self.begun = False
        """Something of this attempt has gone to the client."""
        self._context = context
        self._admitted = admitted
        self._answer = answer
        self._progress = progress
        self._worker = worker
        self._choice = choice
        self._ticket = context.router.take(
            choice, admitted.prompt, context.clock(), pulled=progress.handoff is not None
        )
        self._ticket.resumed = answer.begun

    async def run(self) -> Outcome:
        """Have the worker answer, and relay that.

        Raises:
            UpstreamError: it did not answer to the end.
        """
        connection: Connection | None = None
        counts = failed = down = broken_off = False  # a client that leaves says nothing of a worker
        try:
            if self._answer.begun and (ids := self._progress.stream.doubtful):
                await self._read_back(ids)
            connection, response = await send(
                self._context, self._admitted.metrics, self._worker, self._request_bytes()
            )
            outcome = await self._relay(response, connection)
            counts, failed = True, response.status >= _SERVER_ERRORS
            return outcome
        except UpstreamError as error:
            counts, failed = error.fault is not Fault.LEAVING, True
            down, broken_off = error.fault in _DOWN, isinstance(error, BrokenOffError)
            raise
        finally:
            self._account(
                self._ticket, counts=counts, failed=failed, down=down, broken_off=broken_off
            )
            self._return_unused_lease()
            self._admitted.tenant_request.computed(self._progress.stream.tokens)
            if connection is not None:
                self._context.watchdog.end(self._worker.id, connection)
                self._context.pool.give_back(self._worker.url, connection)

    async def _read_back(self, ids: bytes) -> None:
        """See that the client has all the text of the ids that came last.

        Raises:
            UpstreamError: it has not, or the worker does not say.
        """
        context, progress = self._context, self._progress
        text = await text_of(context, self._admitted, progress.id, self._worker, ids)
        if not progress.stream.settle(text):
            raise UpstreamError("the stream broke inside of a character or mark", Fault.LEAVING)

    def _account(
        self, ticket: Ticket, *, counts: bool, failed: bool, down: bool, broken_off: bool
    ) -> None:
        """A stream that this gateway cut at its own end is not its worker's failure."""
        fair = not self._context.stopping()
        now = self._context.clock()
        self._context.router.ended(
            ticket,
            counts=counts and fair,
            failed=failed,
            down_at=now if down and fair else None,
            erred_at=now if counts and failed and fair else None,
            broken_off_at=now if broken_off and fair else None,
        )

    def _return_unused_lease(self) -> None:
        """KV that was not used at once will not be."""
        handoff, self._progress.handoff = self._progress.handoff, None
        if handoff is not None and not self.begun:
            self._context.leases.give_back(handoff)

    def _request_bytes(self) -> bytes:
        """Return the request, or what is left of it, as it goes to the worker."""
        admitted, path = self._admitted, self._admitted.call.path
        own = [*self._context.token, *admitted.tenant_request.trusted_headers]
        if self._progress.number > 1:
            own.append((headers.ATTEMPT, str(self._progress.number)))
        if admitted.parsed.stream and admitted.model.resume_streams and path in STREAMED:
            own.append((headers.JOURNAL, "1"))
        if admitted.model.tpot is not None:
            own.append((headers.TPOT_OBJECTIVE, str(admitted.model.tpot)))
        body = self._progress.stream.asking(admitted.body, begun=self._answer.begun)
        if self._progress.handoff is not None:
            body = decode_body(body, self._progress.handoff.params)
            own.append((headers.HANDOFF, "1"))
        host, incoming = urlsplit(self._worker.url).netloc, admitted.call.headers
        kind = admitted.parsed.content_type
        return worker_request(path, host, self._progress.id, incoming, body, own, kind)

    async def _relay(self, response: Response, connection: Connection) -> Outcome:
        if response.status == 200 and is_stream(response):
            return await self._relay_stream(response, connection)
        return await self._relay_whole(response, connection)

    async def _relay_stream(self, response: Response, connection: Connection) -> Outcome:
        """Relay a stream, event by event."""
        stream, answer = self._progress.stream, self._answer

        def take(data: bytes) -> bool:
            events = stream.feed(data)
            if stream.aborted and not self.begun:
                return False  # what came before is nothing yet
            if events and not self.begun:
                self._begin(response, of_stream(data))
            if events and not answer.pass_on(events):
                connection.pause()
                return False
            return not stream.stopped

        try:
            while await connection.pump(take) and not stream.stopped:
                await answer.caught_up()
        except UpstreamError:
            if not (stream.done or stream.whole):  # what is missing then is nobody's loss
                raise
        if stream.done or stream.whole:
            if not stream.done:
                answer.pass_on(stream.ending())
            answer.end()
            return Outcome.COMPLETE
        return self._relay_error(response)

    def _relay_error(self, response: Response) -> Outcome:
        """Pass on the error with which a worker ended a stream, if that is the request's own."""
        stream = self._progress.stream
        if stream.aborted:
            raise BrokenOffError
        if stream.misread:
            raise UpstreamError("it does not know where to go on", Fault.LEAVING)
        if stream.error is None:
            raise UpstreamError("what it sends is not the rest of a stream", Fault.GARBAGE)
        code = error_code(stream.error.removeprefix(b"data: "))
        if fault := _fault_of_end(code):
            raise UpstreamError(f"it ended a stream with {code}", fault)
        if not self.begun:
            self._begin(response)
        self._answer.pass_on(stream.error)
        return Outcome.ERROR

    async def _relay_whole(self, response: Response, connection: Connection) -> Outcome:
        """Relay an answer that is not streamed."""
        if self._answer.begun:
            reason = f"it answered with status {response.status} when asked to go on"
            raise UpstreamError(reason, Fault.REFUSED)
        held = b""
        while data := await connection.piece():
            held = data if self.begun else held + data
            if not self.begun and len(held) > MAX_HELD:
                self._begin(response)
            if self.begun and not self._answer.pass_on(held):
                await self._answer.caught_up()
        if not self.begun:
            self._begin(response, self._checked(response, held))
            self._answer.pass_on(held)
        self._answer.end()
        failed = response.status >= _SERVER_ERRORS
        return Outcome.ERROR if failed else Outcome.COMPLETE

    def _checked(self, response: Response, body: bytes) -> PromptUsage:
        """Return what a whole answer tells, unless it must not go on to the client as it is."""
        if response.status == _UNKNOWN_KEY:  # ours, not the client's
            raise UpstreamError("it does not know this gateway's token", Fault.REFUSED)
        if response.status >= 500 and response.status != ErrorCode.DEADLINE_EXCEEDED.status:
            raise RefusalError(response, body)
        if response.status == ErrorCode.NOT_FOUND.status and not error_code(body):
            # vLLM has only the routes of what its model is for.
            message = f"{self._admitted.model.name!r} has no {self._admitted.call.path}."
            raise ApiError(ErrorCode.NOT_FOUND, message)
        if response.status != 200:
            return _UNKNOWN
        if ABORTED in body:
            raise BrokenOffError
        streams = self._admitted.parsed.stream and self._admitted.call.path in STREAMED
        usage = None if streams else of_answer(body)
        if usage is None and self._admitted.call.path in SPEECH_PATHS:
            usage = PromptUsage()  # a plain text, or subtitles, if that was asked for
        if usage is None:
            raise UpstreamError("it answered with something else than asked for", Fault.GARBAGE)
        usage.first_token = first_token_of(response.header(_TTFT))
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
        if self._answer.begun:
            metrics.resumed(self._progress.fault, now - self._progress.broken_at)
        else:
            metrics.first_byte(now)
            self._answer.begin(response, self._choice)


def _fault_of_end(code: str) -> Fault | None:
    """Return what ended a stream with an error: a worker's fault, or (None) the request's own.

    vLLM's codes are statuses, and it ends streams with 500 when its engine has died.
    """
    if code.isdecimal() and int(code) >= _SERVER_ERRORS:
        return Fault.FAILED
    return _FAULT_OF_CODE.get(code)
