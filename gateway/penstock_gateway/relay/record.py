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

from penstock_contract.journal import Resume, parse

MAX_EVENT: Final = 4 << 20
"""Bytes without an end of an event; more is garbage."""
MAX_JOURNAL: Final = 4 << 20
"""Bytes of journal of one stream, some 200,000 tokens; a longer one cannot be continued."""

DONE: Final = b"data: [DONE]\n\n"
_ERROR: Final = b'data: {"error"'
_FIELDS: Final = (b":", b"event:", b"id:", b"retry:")
_CHUNK: Final = re.compile(rb"(?:(?::|event:|id:|retry:)[^\r\n]*\n)*data: ?\{[^\r\n]*\}\n\n")
_COLON: Final = 0x3A
_CR: Final = b"\r"
_NOT_ALONE: Final = (b"data:", b": tokens", b": resume", _CR)
"""Not in events without data: what has one of these has lost the rest."""


class Record:
    """One stream, at however many workers."""

    def __init__(self) -> None:
        self.done = False
        """`[DONE]` was passed on."""
        self.error: bytes | None = None
        """The error event with which the worker gave up; it was not passed on."""
        self.stopped = False
        """There is nothing more to come: all is done, or an error or garbage has come."""
        self._journal = bytearray()
        self._tail = b""
        self._verbatim = False
        self._known = False

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

    def restart(self) -> None:
        """Forget what the last worker left unfinished: the next one says it again."""
        self._tail, self.error, self.stopped, self._known = b"", None, False, False

    def _pieces(self, data: bytes) -> bytes:
        data = self._tail + data
        if self._verbatim or (b"\r\n\r\n" in data and b"\n\n" not in data):
            return self._unread(data)
        *events, self._tail = data.split(b"\n\n")
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
        if not self._known and not self._learn(event[at + len(b"data: ") :]):
            return b""
        if at == 0:
            return event
        if event[0] == _COLON and event[at - 1 : at] == b"\n":
            if len(self._journal) <= MAX_JOURNAL:
                self._journal += event[:at]
            return event[at:]
        return self._other(event)

    def _learn(self, data: bytes) -> bool:
        """Read the first event of a worker; return whether it is one.

        Of the others only the shape is looked at: whoever can write one event can write more.
        """
        try:
            self._known = isinstance(orjson.loads(data), dict)
        except orjson.JSONDecodeError:
            self.stopped = True
        return self._known

    def _other(self, event: bytes) -> bytes:
        """Return what is left of an event that is not a chunk of the answer."""
        if event == DONE:
            self.done = self.stopped = True
            return event
        at = event.find(_ERROR)
        if at == 0 or (at > 0 and event[at - 1 : at] == b"\n"):
            self.stopped, self.error = True, event[at:]
            return b""
        if _CHUNK.fullmatch(event):
            return event
        if event.startswith(_FIELDS) and not any(found in event for found in _NOT_ALONE):
            return event
        self.stopped = True
        return b""

    def _unread(self, data: bytes) -> bytes:
        """Pass on a stream whose lines end otherwise; it cannot be continued."""
        self._verbatim, self._tail = True, b""
        self.done = self.done or b"data: [DONE]" in data
        return data


def error_code(body: bytes) -> str:
    """Return the code in an error's body, or nothing."""
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        return str(orjson.loads(body)["error"]["code"])
    return ""
