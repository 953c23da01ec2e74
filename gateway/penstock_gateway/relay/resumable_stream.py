"""What a stream has shown so far: enough to go on with it at another worker. Pure.

A worker that keeps the resume journal (penstock_contract.journal) writes a comment in front of each
event. The comments stay here and the events go on: clients would ignore token ids, but some choke
on comments. Nothing of the journal is read until the stream breaks. Only whole events go on, so a
stream that breaks inside of one can be continued with that event.
"""

import re
from contextlib import suppress
from typing import Final

import orjson

from penstock_contract.journal import FIELD, Resume, parse
from penstock_gateway.relay.request import with_field

MAX_EVENT: Final = 4 << 20
"""Bytes without an end of an event; more is garbage."""
MAX_JOURNAL: Final = 4 << 20
"""Bytes of journal of one stream, some 200,000 tokens; a longer one cannot be continued."""

DONE: Final = b"data: [DONE]\n\n"
ABORTED: Final = b'"finish_reason":"abort"'
"""How vLLM says that it ends and an answer is not whole, as if it were; in a text the quotes would
be escaped."""
_ERROR: Final = b'data: {"error"'
_FIELDS: Final = (b":", b"event:", b"id:", b"retry:")
_CHUNK: Final = re.compile(rb"(?:(?::|event:|id:|retry:)[^\r\n]*\n)*data: ?\{[^\r\n]*\}\n\n")
_COLON: Final = 0x3A
_CR: Final = b"\r"
_NOT_ALONE: Final = (b"data:", b": tokens", b": resume", _CR)
"""Not in events without data: what has one of these has lost the rest."""


class ResumableStream:
    """One stream, at however many workers."""

    def __init__(self) -> None:
        self.done = False
        """`[DONE]` was passed on."""
        self.error: bytes | None = None
        """The error event with which the worker gave up; it was not passed on."""
        self.stopped = False
        """There is nothing more to come: all is done, or an error or garbage has come."""
        self.aborted = False
        """The worker broke the answer off, or gave none; what says so was not passed on."""
        self.misread = False
        """The worker began elsewhere when it was asked to go on; nothing of that was passed on."""
        self.whole = False
        """All choices have said why they end; `ending` is what may be missing."""
        self._shown = False
        self._journal = bytearray()
        self._tail = bytearray()
        self._verbatim = False
        self._known = False
        self._continues = False

    def feed(self, data: bytes) -> bytes:
        """Take what came from the worker; return what goes on to the client."""
        end = data.find(b"\n\n") + 2
        if end == len(data) > 1 and not self._tail and not self._verbatim:
            return self._event(data)
        return self._pieces(data)

    def resume(self) -> Resume | None:
        """Return where another worker must go on; None when the stream cannot be continued."""
        if not self._journal.startswith(b": resume ") or len(self._journal) > MAX_JOURNAL:
            return None
        found = parse(bytes(self._journal) + b"\n\n")
        return found.resume if found.intact else None

    @property
    def resumable(self) -> bool:
        """Whether another worker can go on."""
        return self.resume() is not None

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of the answer so far; 0: it does not tell."""
        return 0

    @property
    def doubtful(self) -> bytes:
        """Ids whose text may not all have been shown, so that a worker is to tell it."""
        return b""

    def asking(self, body: bytes, *, begun: bool) -> bytes:
        """Return the request as a worker must get it.

        Args:
            body: of the client's.
            begun: the client has seen something, and is to get the rest.
        """
        resume = self.resume() if begun else None
        if resume is None:
            return body
        return with_field(body, FIELD, resume.model_dump_json().encode())

    def settle(self, text: str) -> bool:
        """Take what the doubtful ids mean; return whether all of it was shown."""
        return bool(text)

    def ending(self) -> bytes:
        """Return what a stream lacks that is `whole`."""
        return DONE

    def restart(self, *, begun: bool) -> None:
        """Forget what the last worker left unfinished: the next one says it again.

        Args:
            begun: the client has seen something; otherwise that was all of it.
        """
        self._tail, self.error, self._known = bytearray(), None, False
        self._shown = self._shown and begun
        self._continues = begun
        self.stopped = self.aborted = self.misread = False

    def _pieces(self, data: bytes) -> bytes:
        if not self._verbatim and b"\n\n" not in self._tail[-1:] + data and _CR not in data:
            self._tail += data  # looked through no second time: an event may come in many pieces
            self.stopped = self.stopped or len(self._tail) > MAX_EVENT
            return b""
        data = bytes(self._tail) + data
        if self._verbatim or (b"\r\n\r\n" in data and b"\n\n" not in data):
            return self._unread(data)
        *events, tail = data.split(b"\n\n")
        self._tail = bytearray(tail)
        found = [self._event(event + b"\n\n") for event in events]
        self.stopped = self.stopped or len(self._tail) > MAX_EVENT
        return b"".join(found)

    def _event(self, event: bytes) -> bytes:
        if self.stopped:
            return b""
        at = event.find(b"data: {")
        if at < 0 or event.startswith(_ERROR, at) or not event.endswith(b"}\n\n"):
            return self._other(event)
        if _CR in event:  # HTTP framing inside: bytes are missing, and others fill their chunk
            self.stopped = True
            return b""
        if at == 0 and ABORTED in event:  # where there is a journal, a worker of ours speaks
            self.aborted = self.stopped = True
            return b""
        if not self._known and not self._learn(event, at):
            return b""
        if at == 0:
            return self._chunk(event)
        if event[0] == _COLON and event[at - 1 : at] == b"\n":
            if len(self._journal) <= MAX_JOURNAL:
                self._journal += event[:at]
            return event[at:]
        return self._other(event)

    def _chunk(self, event: bytes) -> bytes:
        """Return what goes on of an event without a journal."""
        return event

    def _learn(self, event: bytes, at: int) -> bool:
        """Read the first event of a worker, its data being at `at`; return whether it is one.

        Of the others only the shape is looked at: whoever can write one event can write more.
        """
        if self._continues and (at > 0) != bool(self._journal):
            self.misread = self.stopped = True  # another engine: it has begun from the messages
            return False
        try:
            self._known = isinstance(orjson.loads(event[at + len(b"data: ") :]), dict)
            self._shown = self._shown or self._known
        except orjson.JSONDecodeError:
            self.stopped = True
        return self._known

    def _other(self, event: bytes) -> bytes:
        """Return what is left of an event that is not a chunk of the answer."""
        if event == DONE:
            self.done, self.aborted, self.stopped = self._shown, not self._shown, True
            return event if self._shown else b""
        at = event.find(_ERROR)
        if at == 0 or (at > 0 and event[at - 1 : at] == b"\n"):
            self.stopped, self.error = True, event[at:]
            return b""
        if _CHUNK.fullmatch(event):
            self._shown = True
            return event
        if event.startswith(_FIELDS) and not any(found in event for found in _NOT_ALONE):
            return event
        self.stopped = True
        return b""

    def _unread(self, data: bytes) -> bytes:
        """Pass on a stream whose lines end otherwise; it cannot be continued."""
        self._verbatim, self._tail = True, bytearray()
        self.done = self.done or b"data: [DONE]" in data
        return data


def error_code(body: bytes) -> str:
    """Return the code in an error's body, or nothing."""
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        return str(orjson.loads(body)["error"]["code"])
    return ""
