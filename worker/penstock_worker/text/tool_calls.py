"""Finds tool calls in text that arrives in pieces.

What cannot be a call any more is text, at once. Of a call, the name is known before its arguments
begin, and these are passed on as they come. A call that nobody can read is text again: nothing that
the model wrote is lost.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock_worker.text.tool_format import ToolFormat

_PYTHON_TAG = "<|python_tag|>"
"""Llama 3's optional mark in front of a call."""

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_BEGIN = '{"name":"'


@dataclass(frozen=True)
class CallPiece:
    """A part of a call: first its name, then pieces of its arguments, which join to JSON."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass
class Parsed:
    """What a piece of text turned out to be."""

    text: str = ""
    calls: list[CallPiece] = field(default_factory=list)


class JsonEnd:
    """Finds the end of a JSON object or array that arrives in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, piece: str) -> int | None:
        """Return the index behind the last character, or None when more is to come."""
        for index, letter in enumerate(piece):
            if self._in_string:
                self._in_string = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


class ToolCalls:
    """Reads one answer.

    Args:
        form: how the model writes calls.
        parallel: False drops everything behind the first call.
    """

    def __init__(self, form: ToolFormat, *, parallel: bool = True) -> None:
        self.count = 0
        self._form = form
        self._parallel = parallel
        self._held = ""
        self._arguments: JsonEnd | None = None
        self._state: Callable[[Parsed], bool] = self._text
        self._shown = False
        """Whether the text between calls has begun; until then, blanks are kept back."""

    def feed(self, piece: str) -> Parsed:
        """Return what a piece adds; a part of it may be kept back."""
        self._held += piece
        found = Parsed()
        while self._state(found):
            pass
        return found

    def flush(self) -> Parsed:
        """Return what was kept back, at the end of the answer."""
        found = Parsed()
        if self._state == self._head:
            if not self._read_whole(self._held, found):
                found.text = self._form.opening + self._held
        elif self._state == self._text and not (self.count and self._held.isspace()):
            found.text = self._held
        self._held = ""
        return found

    # Each state consumes what it can of the held text, and returns whether another may go on.

    def _text(self, found: Parsed) -> bool:
        if not self._form.opening:
            return self._bare(found)
        text, opening, rest = self._held.partition(self._form.opening)
        if opening:
            self._show(text, found, last=True)
            self._held, self._state, self._shown = rest, self._head, False
            return True
        keep = _possible_start(text, self._form.opening)
        self._held = text[len(text) - keep :]
        self._show(text[: len(text) - keep], found)
        return False

    def _bare(self, found: Parsed) -> bool:
        """Calls that are the whole answer: the first letter decides."""
        held = self._held.lstrip(" \n\t;" if self.count else " \n\t").removeprefix(_PYTHON_TAG)
        if held.startswith("{"):
            self._held, self._state = held, self._head
            return True
        if _PYTHON_TAG.startswith(held):
            return False
        self._state = self._plain
        return self._plain(found)

    def _plain(self, found: Parsed) -> bool:
        """No calls (any more), whatever comes."""
        found.text, self._held = found.text + self._held, ""
        return False

    def _head(self, found: Parsed) -> bool:
        head = _HEAD.match(self._held)
        if head is None:
            return self._other_tagged(found) if self._form.closing else self._other_bare(found)
        found.calls.append(CallPiece(self.count, name=json.loads(head[1], strict=False)))
        self.count += 1
        self._held = self._held[head.end() :]
        self._arguments = JsonEnd()
        self._state = self._body
        return True

    def _other_tagged(self, found: Parsed) -> bool:
        """No call, or one with other keys first: that is judged when it is complete."""
        form = self._form
        whole, closing, rest = self._held.partition(form.closing)
        if not closing:
            return False
        self._held = rest
        if not self._read_whole(whole, found):
            self._show(form.opening + whole + closing, found)
        self._state = self._next()
        return True

    def _other_bare(self, found: Parsed) -> bool:
        """No call, or one without its arguments: an answer in JSON is not kept back for long."""
        may_be = _BEGIN.startswith("".join(self._held.split())[: len(_BEGIN)])
        end = JsonEnd().find(self._held) if may_be else len(self._held)
        if end is None:
            return False
        if self._read_whole(self._held[:end], found):
            self._held = self._held[end:]
            self._state = self._next()
        else:
            self._state = self._plain
        return True

    def _body(self, found: Parsed) -> bool:
        end = self._arguments.find(self._held) if self._arguments else 0
        piece = self._held[:end]
        if piece:
            found.calls.append(CallPiece(self.count - 1, arguments=piece))
        self._held = self._held[len(piece) :]
        if end is None:
            return False
        self._state = self._end
        return True

    def _end(self, found: Parsed) -> bool:  # noqa: ARG002
        _, closing, rest = self._held.partition(self._form.closing or "}")
        if not closing:
            return False
        self._held = rest
        self._state = self._next()
        return True

    def _dropped(self, found: Parsed) -> bool:  # noqa: ARG002
        self._held = ""
        return False

    def _next(self) -> Callable[[Parsed], bool]:
        return self._text if self._parallel or not self.count else self._dropped

    def _read_whole(self, text: str, found: Parsed) -> bool:
        call = _call(text, bare=not self._form.opening)
        if call is None:
            return False
        found.calls.append(CallPiece(self.count, *call))
        self.count += 1
        return True

    def _show(self, text: str, found: Parsed, *, last: bool = False) -> None:
        """Show text between calls; blanks in front of it only if something follows them."""
        if self._shown or text.strip():
            self._shown = True
            found.text += text
        elif not last:
            self._held = text + self._held


def _call(text: str, *, bare: bool) -> tuple[str, str] | None:
    """Return the name and the arguments of a whole call, or None when it is none.

    Without a mark in front of it, only its arguments tell a call from other JSON.
    """
    try:
        read = json.loads(text, strict=False)
        given = read.get("arguments", read.get("parameters"))
        given = json.loads(given) if isinstance(given, str) else given
        name = read["name"]
    except (ValueError, AttributeError, KeyError):
        return None
    if not isinstance(name, str) or not isinstance(given, dict | None) or (bare and given is None):
        return None
    return name, json.dumps(given or {}, ensure_ascii=False)


def _possible_start(text: str, mark: str) -> int:
    """Return the length of the longest end of `text` that could begin a mark."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
