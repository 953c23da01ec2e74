"""What an answer that passes by tells of the worker that gives it. Pure.

It is read as the gateway reads it (`relay.attempt`), with two differences: nothing is held back,
and whether a worker was lost or the client has left, nobody tells.
"""

from typing import Final, NamedTuple

from penstock_contract import headers
from penstock_contract.errors import ErrorCode
from penstock_contract.metrics import Fault, Outcome
from penstock_contract.tasks import GENERATION
from penstock_gateway.relay.resumable_stream import ABORTED, ResumableStream, error_code
from penstock_gateway.routing.prompt_usage import PromptUsage, first_token_of, of_answer

MAX_HELD: Final = 1 << 20
"""Bytes of an answer that is not streamed, kept to be read; of a longer one nothing is."""
DOWN: Final = (Fault.UNREACHABLE, Fault.LOST, Fault.GARBAGE, Fault.FAILED)
"""After these a worker is put aside until a probe has found it well."""

_OF_CODE: Final = {
    ErrorCode.SHUTTING_DOWN.code: Fault.LEAVING,
    ErrorCode.HANDED_BACK.code: Fault.LEAVING,
    ErrorCode.INTERNAL_ERROR.code: Fault.FAILED,
    ErrorCode.NO_CAPACITY.code: Fault.REFUSED,
}
_GATEWAYS: Final = (502, 503, 504)
"""What a gateway says by itself, in words, when there is no answer."""
_LOST: Final = (b"reset reason: connection termination", b"reset reason: protocol error")
"""Envoy's words where a worker had the request and gave no answer."""
_UNASKED: Final = b"reset reason: overflow"
"""Envoy's words where it sends no more to any worker for now."""
_IMPATIENT: Final = 504
"""What a gateway says that does not wait for an answer any longer."""
_USAGE: Final = b'"usage":{'
_DATA: Final = b"data: "


class Verdict(NamedTuple):
    """What became of a request at its worker."""

    fault: Fault | None = None
    """What the worker did not do; None: it answered, be it with a refusal."""
    failed: bool = False
    """The worker failed it."""
    broken_off: bool = False
    """The worker gave the answer up in good order."""
    outcome: Outcome = Outcome.COMPLETE

    @classmethod
    def of(cls, fault: Fault, *, broken_off: bool = False) -> "Verdict":
        """Return the verdict on a worker that did not serve a request to its end."""
        return cls(fault, True, broken_off, Outcome.ERROR)


class Answer:
    """One answer.

    Args:
        status: of it.
        found: its headers, names in lower case.
        path: of the request.
        stream: the request asks for a stream.
    """

    def __init__(self, status: int, found: dict[str, str], path: str, *, stream: bool) -> None:
        self.status = status
        self._asked_stream = stream and path in GENERATION
        # A gateway may compress before the picker sees it.
        self._unread = found.get("content-encoding", "identity") != "identity"
        """The body is not looked at: nobody could read it, or it is too long."""
        kind = found.get("content-type", "")
        self._stream = (
            ResumableStream()
            if status == 200 and kind.startswith("text/event-stream") and not self._unread
            else None
        )
        self._first_token = found.get(headers.TTFT_MS, "")
        self._held = bytearray()
        self._usage: PromptUsage | None = None

    @property
    def streams(self) -> bool:
        """Whether it comes event by event, so that its first byte is the first token's."""
        return self._stream is not None

    @property
    def whole(self) -> bool:
        """Whether nothing is missing that a client would miss."""
        return self._stream is not None and self._stream.done

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        if not data:
            return
        if self._stream is not None:
            events = self._stream.feed(data)
            if _USAGE in events:
                self._usage = _usage_in(events) or self._usage
        elif not self._unread:
            self._held += data
            if len(self._held) > MAX_HELD:
                self._unread, self._held = True, bytearray()

    def usage(self) -> PromptUsage:
        """Return what it has told of the prompt until now; of an error, nothing."""
        if self._stream is not None or self._unread or self.status != 200:
            return self._usage or PromptUsage()
        found = of_answer(bytes(self._held)) or PromptUsage()
        found.first_token = first_token_of(self._first_token.encode())
        return found

    def verdict(self) -> Verdict | None:
        """Return what became of the request; all of the body has come. None: it does not say."""
        if self._stream is not None:
            return self._of_stream(self._stream)
        if self.status == ErrorCode.INVALID_API_KEY.status:  # the picker's key, not the client's
            return Verdict.of(Fault.REFUSED)
        if self.status >= ErrorCode.INTERNAL_ERROR.status:
            return self._of_error()
        if self.status != 200 or self._unread:
            return Verdict()
        if ABORTED in self._held:
            return Verdict.of(Fault.LEAVING, broken_off=True)
        if self._asked_stream or of_answer(bytes(self._held)) is None:
            return Verdict.of(Fault.GARBAGE)
        return Verdict()

    def verdict_by_head(self) -> Verdict | None:
        """Return what became of the request as far as the head tells. None: it does not say."""
        return self._of_error() if self.status >= ErrorCode.INTERNAL_ERROR.status else Verdict()

    def _of_error(self) -> Verdict | None:
        code = error_code(bytes(self._held))
        if not code and self.status in _GATEWAYS:
            if self.status == _IMPATIENT or _UNASKED in self._held:
                return None
            lost = any(words in self._held for words in _LOST)
            return Verdict.of(Fault.LOST if lost else Fault.UNREACHABLE)
        if self.status == ErrorCode.DEADLINE_EXCEEDED.status:
            return Verdict(failed=True, outcome=Outcome.ERROR)
        return Verdict.of(_OF_CODE.get(code, Fault.REFUSED))

    def _of_stream(self, stream: ResumableStream) -> Verdict:
        if stream.done:
            return Verdict()
        if stream.aborted:
            return Verdict.of(Fault.LEAVING, broken_off=True)
        if stream.error is None:
            return Verdict.of(Fault.GARBAGE if stream.stopped else Fault.LOST)
        code = error_code(stream.error.removeprefix(_DATA))
        fault = _OF_CODE.get(code)
        if code.isdecimal() and int(code) >= ErrorCode.INTERNAL_ERROR.status:
            fault = Fault.FAILED  # vLLM's codes are statuses
        return Verdict.of(fault) if fault else Verdict(outcome=Outcome.ERROR)


def _usage_in(events: bytes) -> PromptUsage | None:
    """Return the usage that one of some events tells."""
    for event in events.split(b"\n\n"):
        if _USAGE in event and event.startswith(_DATA):
            found = of_answer(event[len(_DATA) :])
            if found is not None and found.prompt is not None:
                return found
    return None
