"""A stream of vLLM, which is asked to tell token ids (`continuable`). Pure.

The ids stay here, and what goes on is, byte for byte, what vLLM writes when nobody asks for them:
without those events, too, that it writes only to tell ids that a parser has no text for.
When the stream breaks, they are the prompt of the rest; the events of that get the head of those
before, and the usage of the whole.

An id counts as soon as its text is shown, and not before: half a character shows none, and is
drawn again. Where an event has text and several ids, the last of them may be half a character all
the same, and a parser may have kept back what may become a mark; which only the tokenizer can tell
(`read_back`).
"""

from contextlib import suppress
from typing import Final

from penstock_gateway.relay.continuable import Plan
from penstock_gateway.relay.resumable_stream import DONE, ResumableStream
from penstock_gateway.relay.stop_strings import StopStrings
from penstock_gateway.relay.token_ids import TokenIds
from penstock_gateway.relay.vllm_events import (
    GARBAGE,
    next_place,
    of_whole,
    read,
    shown,
    written,
)

_CHOICES: Final = b'"choices":['
_NO_CHOICES: Final = b'"choices":[]'
# In a text the quotes would be escaped.
_PROMPT_IDS: Final = b'"prompt_token_ids":['
_IDS: Final = b'"token_ids":['
_USAGE: Final = b'"usage":{'
_OFFSETS: Final = b'"text_offset":['
_FINISH: Final = b'"finish_reason":'
_GOES_ON: Final = _FINISH + b"null"
_PLAIN_TEXT: Final = b'"text":"'
_CHAT_TEXT: Final = b'"delta":{"content":"'
_QUOTE: Final = 0x22
_REASONING: Final = b'"reasoning":"'
_CALLS: Final = b'"tool_calls":['
_NO_DELTA: Final = b'"delta":{}'
_ROLE: Final = b'"delta":{"role":'
_HALF: Final = "\ufffd"
"""What half a character means."""


class TokenStream(ResumableStream):
    """One stream of vLLM, at however many workers.

    Args:
        plan: how it is continued.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._mark = _CHAT_TEXT if plan.chat else _PLAIN_TEXT
        self._forget()

    def _forget(self) -> None:
        self.whole = False
        self._head = b""
        self._ids = TokenIds()
        self._stops = StopStrings(self._plan.stops) if self._plan.stops else None
        self._last = 0
        self._last_event = b""
        self._several = False
        self._text_came_last = True
        self._reasons = self._plan.reasons
        self._lost = False
        self._awaits_prompt = True
        self._before = self._offset = 0
        self._told_usage = False

    @property
    def resumable(self) -> bool:
        """Whether another worker can go on."""
        if self._journal:  # a worker of ours, in the middle of a change of engines
            return super().resumable
        ids = self._ids
        return (
            not (self._lost or self.whole)
            and self._text_came_last
            and not (ids.held and self._plan.shows_tokens)
            and ids.kept
            and ids.prompt > 0
            and not self._plan.is_over(ids.answer)
        )

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of the answer so far; 0: it does not tell."""
        ids = self._ids
        return ids.prompt + ids.answer + ids.held if ids.prompt else 0

    @property
    def doubtful(self) -> bytes:
        """Ids whose text may not all have been shown."""
        if self._stops is not None and self._stops.doubtful:
            return self._ids.last(self._stops.doubtful)
        return self._ids.last(self._last) if self._several or self._plan.parsed else b""

    def settle(self, text: str) -> bool:
        """Take what the doubtful ids mean; return whether the rest can be told from it."""
        try:
            whole = self._fits(text)
        except GARBAGE:
            whole = False
        self._lost = self._lost or not whole
        return whole

    def _fits(self, text: str) -> bool:
        if self._stops is not None and self._stops.doubtful:
            return self._stops.settle(text, "".join(map(shown, self._stops.shown)))
        # By themselves, they may begin inside of a character, and some tokenizers drop a blank.
        end = text.lstrip(" " + _HALF)
        return bool(text) and not text.endswith(_HALF) and shown(self._last_event).endswith(end)

    def asking(self, body: bytes, *, begun: bool) -> bytes:
        """Return the request as a worker must get it."""
        if self._journal:
            return super().asking(body, begun=begun)
        if not begun:
            return self._plan.first(body)
        return self._plan.rest(body, self._ids.so_far(), self._before)

    def restart(self, *, begun: bool) -> None:
        """Forget what the last worker left unfinished."""
        super().restart(begun=begun)
        if not begun:
            self._forget()
            return
        self._ids.drop_held()
        self._awaits_prompt = True
        self._before = self._ids.answer
        if self._stops is not None:
            self._stops.restart()
        if self._plan.shows_offsets and self._last_event:
            with suppress(*GARBAGE):  # it tells no places, so the rest needs none
                self._offset = next_place(self._last_event)

    def ending(self) -> bytes:
        """Return what a stream lacks that has told why it ends."""
        usage = b""
        if self._plan.includes_usage and not self._told_usage and self._ids.prompt:
            found = (self._ids.prompt, self.tokens, self._ids.answer)
            usage = self._head + _NO_CHOICES + b',"usage":{"prompt_tokens":%d,' % found[0]
            usage += b'"total_tokens":%d,"completion_tokens":%d}}\n\n' % found[1:]
        return usage + DONE

    def _chunk(self, event: bytes) -> bytes:
        try:
            return self._counted(event)
        except GARBAGE:
            return self._refuse()

    def _counted(self, event: bytes) -> bytes:
        """Return what goes on of an event, whose ids stay here."""
        if self._awaits_prompt or self._continues:
            event = self._placed(event)
        at = event.rfind(_IDS)
        if at < 0:
            return self._stopped(self._without_ids(event))
        begin = at + len(_IDS)
        end = event.find(b"]", begin)
        misplaced = self._awaits_prompt and self._continues
        if misplaced or not self._note(event, event[begin:end]):
            return self._refuse()
        if self._plan.shows_ids:
            return event
        if self._tells_only_ids(event):
            return b""
        return self._stopped(event[: begin - 1] + b"null" + event[end + 1 :])

    def _tells_only_ids(self, event: bytes) -> bool:
        """Return whether vLLM wrote an event for nothing but its ids."""
        plan = self._plan
        return plan.parsed and not (plan.shows_tokens or self.whole) and _NO_DELTA in event

    def _stopped(self, event: bytes) -> bytes:
        """Return an event with the text that goes on now, where the request has stop strings."""
        stops = self._stops
        if stops is None or not event:
            return event
        if not stops.keeps:
            if self._has_text(event):
                stops.note(event)
            return event
        found = read(event)
        if not found["choices"]:
            return event
        choice = found["choices"][0]
        place, name = (choice["delta"], "content") if self._plan.chat else (choice, "text")
        ended, text = choice.get("stop_reason"), place.get(name) or ""
        place[name], stop = stops.pass_on(text, over=self.whole, stop=ended)
        if stop:
            choice["finish_reason"], choice["stop_reason"] = "stop", stop
            self.stopped = not self.whole
            self.whole = True
        event = written(found)
        if place[name]:
            stops.shown.append(event)
        return event

    def _has_text(self, event: bytes) -> bool:
        at = event.find(self._mark)
        return at >= 0 and event[at + len(self._mark)] != _QUOTE

    def _placed(self, event: bytes) -> bytes:
        """Return an event as one of the whole stream, without its prompt."""
        at = event.find(_CHOICES)
        if at < 0:
            self._lost = True
            return event
        if not self._head:
            self._head = event[:at]
        elif self._continues:
            event = self._head + event[at:]
            if _USAGE in event or _OFFSETS in event:
                event = of_whole(event, self._before, self._offset)
        if self._awaits_prompt and _PROMPT_IDS in event:
            return self._without_prompt(event)
        return event

    def _without_prompt(self, event: bytes) -> bytes:
        """Keep the prompt's ids; of the rest, see that they are what was asked for."""
        begin = event.find(_PROMPT_IDS) + len(_PROMPT_IDS)
        end = event.find(b"]", begin)
        ids, kept = event[begin:end], event[: begin - 1] + b"null" + event[end + 1 :]
        self._awaits_prompt = False
        if not self._continues:
            self._ids.begin(ids)
            return event if self._plan.shows_ids else kept
        if not self._ids.are(ids):  # an older vLLM has begun from the messages
            return self._refuse()
        return b"" if self._plan.chat else kept  # with the role, which was shown

    def _without_ids(self, event: bytes) -> bytes:
        """Return what goes on of an event that tells no ids, or not where they belong."""
        if self._awaits_prompt and self._continues and event:
            return self._refuse()
        self.whole = self.whole or self._ends(event)
        self._told_usage = self._told_usage or _NO_CHOICES in event
        known = self._told_usage or (_ROLE in event and self._ids.prompt > 0) or not event
        self._lost = self._lost or not known
        return event

    def _ends(self, event: bytes) -> bool:
        """Return whether an event without ids says why an answer ends that has told ids."""
        return self._ids.prompt > 0 and _FINISH in event and _GOES_ON not in event

    def _note(self, event: bytes, ids: bytes) -> bool:
        """Count what an event shows; return whether it goes on as it began."""
        text = self._has_text(event)
        self.whole = _GOES_ON not in event
        count = self._ids.hold(ids)
        if text or (self._reasons and _REASONING in event):
            self._reasons = self._reasons and not text
            self._last, self._several = self._ids.show(), count > 1
            self._last_event, self._text_came_last = event, True
            return True
        if self._plan.parsed and _CALLS in event:
            self._lost = True
        elif not self.whole:
            if self._mark in event or _NO_DELTA in event:
                return True
            if self._continues:  # what goes on as text was none for the next worker
                return False
            self._text_came_last = False
        self._ids.show()
        return True

    def _other(self, event: bytes) -> bytes:
        if event == DONE and self._ids.prompt and not self.whole:  # vLLM's, when it is told to end
            self.aborted = self.stopped = True
            return b""
        kept = super()._other(event)
        if _IDS in kept and not self._plan.shows_ids:
            self.stopped = True
            return b""
        return kept

    def _refuse(self) -> bytes:
        """What comes is not the rest, and no worker will do better."""
        self._lost = self.misread = self.stopped = True
        return b""
