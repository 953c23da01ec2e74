"""The resume journal: what a broken stream must tell so that another worker can go on with it.

A worker that was asked to (header `x-penstock-journal`) puts a comment line in front of each
server-sent event; clients ignore comments. The first event of a stream has two, the last ones none
but `usage`:

    : resume id=chatcmpl-1 created=1763700000 seed=42
    : tokens 0 15,27 cached=32
    data: {"id":"chatcmpl-1",…}

    : tokens 0 311 finish=stop
    data: {"id":"chatcmpl-1",…}

    : usage
    data: {"id":"chatcmpl-1",…,"choices":[],"usage":{…}}

    data: [DONE]

`tokens CHOICE IDS` are the ids behind this event and no others: what is kept back (half a stop
string, half a character) is not in the journal until it is shown. `cached` is the number of prompt
tokens that the prefix cache gave, for usage; it comes with the first event of a choice.

A relay keeps the bytes it has passed on and reads them only when the stream breaks. It then sends
the original body with `Resume` in the field `penstock_resume` to another worker, with the same
header; what that one streams are the events that would have come next, journal included, and for
each choice byte for byte (but for the last digits of log-probabilities). A relay passes on whole
events only: what came behind the last one (`Journal.whole`) comes again.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from penstock_contract.headers import REQUEST_ID_PATTERN

FIELD: Final = "penstock_resume"
"""Field of the request body that carries a `Resume`; without the header it is ignored."""

TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=0, lt=2**53)]

USAGE_LINE: Final = b": usage\n"
"""Marks the event that carries usage."""

_BEGIN = re.compile(rb": resume id=(\S+) created=(\d+) seed=(-?\d+)")
_TOKENS = re.compile(rb": tokens (\d+) (\d+(?:,\d+)*)?(?: cached=(\d+))?(?: finish=(\w+))?")


class ResumedChoice(BaseModel):
    """What one choice has already given."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: Annotated[int, Field(ge=0)]
    tokens: tuple[TokenId, ...] = ()
    cached_tokens: Count = 0
    """Prompt tokens that the first worker had cached."""
    finish_reason: str | None = None
    """Set when the choice has ended."""


class Resume(BaseModel):
    """Where to go on: all that a stream has shown, and what its further chunks must repeat."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=f"^{REQUEST_ID_PATTERN.pattern}$")]
    created: Count
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    choices: tuple[ResumedChoice, ...] = ()
    """Those that have shown anything, by index."""
    usage_sent: bool = False
    """The event with usage has been sent: only `[DONE]` is missing."""


@dataclass(frozen=True)
class Journal:
    """What a recorded stream says."""

    resume: Resume | None
    """None when there is no journal in it: nothing was shown, or the worker keeps none."""
    whole: int
    """Bytes up to the end of the last whole event."""
    done: bool
    """`[DONE]` was sent."""
    intact: bool
    """Every comment was a line of the journal: nothing of it was damaged on the way."""


def begin_line(request_id: str, created: int, seed: int) -> bytes:
    """Return the line that opens a journal."""
    return b": resume id=%b created=%d seed=%d\n" % (request_id.encode(), created, seed)


def tokens_line(
    choice: int, tokens: Iterable[int], cached_tokens: int = 0, finish_reason: str | None = None
) -> bytes:
    """Return the line of an event; tokens may be none where a choice only ends."""
    line = b": tokens %d %b" % (choice, b",".join(b"%d" % token for token in tokens))
    if cached_tokens:
        line += b" cached=%d" % cached_tokens
    if finish_reason is not None:
        line += b" finish=%b" % finish_reason.encode()
    return line + b"\n"


def parse(recorded: bytes) -> Journal:
    """Return what a stream has said so far; lines that are no journal are passed over."""
    whole = recorded.rfind(b"\n\n") + 2 if b"\n\n" in recorded else 0
    state = _State()
    for line in recorded[:whole].split(b"\n"):
        state.read(line)
    return Journal(state.resume(), whole, state.done, state.intact)


@dataclass
class _Progress:
    tokens: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    finish_reason: str | None = None


@dataclass
class _State:
    begin: tuple[str, int, int] | None = None
    choices: dict[int, _Progress] = field(default_factory=dict)
    usage_sent: bool = False
    done: bool = False
    intact: bool = True

    def read(self, line: bytes) -> None:
        if line.startswith(b"data: "):
            self.done = self.done or line == b"data: [DONE]"
        elif found := _TOKENS.fullmatch(line):
            self._progress(*found.groups())
        elif found := _BEGIN.fullmatch(line):
            self.begin = (found[1].decode(), int(found[2]), int(found[3]))
        elif line == USAGE_LINE.rstrip():
            self.usage_sent = True
        elif line.startswith(b":"):
            self.intact = False

    def resume(self) -> Resume | None:
        if self.begin is None:
            return None
        request_id, created, seed = self.begin
        choices = tuple(
            ResumedChoice(
                index=index,
                tokens=tuple(found.tokens),
                cached_tokens=found.cached_tokens,
                finish_reason=found.finish_reason,
            )
            for index, found in sorted(self.choices.items())
        )
        return Resume(
            id=request_id, created=created, seed=seed, choices=choices, usage_sent=self.usage_sent
        )

    def _progress(
        self, choice: bytes, tokens: bytes | None, cached: bytes | None, finish: bytes | None
    ) -> None:
        found = self.choices.setdefault(int(choice), _Progress())
        found.tokens += map(int, tokens.split(b",")) if tokens else ()
        found.cached_tokens += int(cached or 0)
        found.finish_reason = finish.decode() if finish else found.finish_reason
