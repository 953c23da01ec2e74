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

import re
from typing import Final

import orjson

from penstock_gateway.relay.continuable import Plan
from penstock_gateway.relay.resumable_stream import DONE, MAX_JOURNAL, ResumableStream

_CHOICES: Final = b'"choices":['
_NO_CHOICES: Final = b'"choices":[]'
# In a text the quotes would be escaped.
_PROMPT_IDS: Final = b'"prompt_token_ids":['
_IDS: Final = b'"token_ids":['
_USAGE: Final = b'"usage":{'
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
_NUMBERS: Final = re.compile(rb"[\d,]+")


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
        self._prompt = b""
        self._ids = bytearray()
        self._held = bytearray()
        self._last = self._last_held = self._last_event = b""
        self._text_came_last = True
        self._reasons = self._plan.reasons
        self._lost = False
        self._awaits_prompt = True
        self._before = 0
        self._told_usage = False

    @property
    def resumable(self) -> bool:
        """Whether another worker can go on."""
        if self._journal:  # a worker of ours, in the middle of a change of engines
            return super().resumable
        return (
            not (self._lost or self.whole)
            and self._text_came_last
            and not (self._held and self._plan.shows_tokens)
            and len(self._prompt) + len(self._ids) <= MAX_JOURNAL
            and _NUMBERS.fullmatch(self._prompt + self._ids) is not None
            and bool(self._prompt)
            and not self._plan.is_over(self._ids.count(b","))
        )

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of the answer so far; 0: it does not tell."""
        if not self._prompt:
            return 0
        return self._prompt_tokens() + self._ids.count(b",") + self._held.count(b",")

    @property
    def doubtful(self) -> bytes:
        """Ids whose text may not all have been shown."""
        several = b"," in self._last[:-1]
        return (self._last_held + self._last)[:-1] if several or self._plan.parsed else b""

    def settle(self, text: str) -> bool:
        """Take what the doubtful ids mean; return whether all of it was shown."""
        (choice,) = orjson.loads(self._last_event[len(b"data: ") :])["choices"]
        delta = choice.get("delta") or {}
        shown = choice.get("text") or delta.get("content") or delta.get("reasoning") or ""
        # By themselves, they may begin inside of a character, and some tokenizers drop a blank.
        end = text.lstrip(" " + _HALF)
        whole = bool(text) and not text.endswith(_HALF) and str(shown).endswith(end)
        self._lost = self._lost or not whole
        return whole

    def asking(self, body: bytes, *, begun: bool) -> bytes:
        """Return the request as a worker must get it."""
        if self._journal:
            return super().asking(body, begun=begun)
        if not begun:
            return self._plan.first(body)
        return self._plan.rest(body, self._so_far(), self._before)

    def restart(self, *, begun: bool) -> None:
        """Forget what the last worker left unfinished."""
        super().restart(begun=begun)
        if not begun:
            self._forget()
            return
        self._held.clear()
        self._awaits_prompt = True
        self._before = self._ids.count(b",")

    def ending(self) -> bytes:
        """Return what a stream lacks that has told why it ends."""
        usage = b""
        if self._plan.includes_usage and not self._told_usage and self._prompt:
            found = (self._prompt_tokens(), self.tokens, self._ids.count(b","))
            usage = self._head + _NO_CHOICES + b',"usage":{"prompt_tokens":%d,' % found[0]
            usage += b'"total_tokens":%d,"completion_tokens":%d}}\n\n' % found[1:]
        return usage + DONE

    def _chunk(self, event: bytes) -> bytes:
        if self._awaits_prompt or self._continues:
            event = self._placed(event)
        at = event.rfind(_IDS)
        if at < 0:
            return self._without_ids(event)
        begin = at + len(_IDS)
        end = event.find(b"]", begin)
        misplaced = self._awaits_prompt and self._continues
        if misplaced or not self._note(event, event[begin:end]):
            return self._refuse()
        if self._plan.shows_ids:
            return event
        if self._tells_only_ids(event):
            return b""
        return event[: begin - 1] + b"null" + event[end + 1 :]

    def _tells_only_ids(self, event: bytes) -> bool:
        """Return whether vLLM wrote an event for nothing but its ids."""
        plan = self._plan
        return plan.parsed and not (plan.shows_tokens or self.whole) and _NO_DELTA in event

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
            if _USAGE in event:
                event = self._with_whole_usage(event)
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
            self._prompt = ids
            return event if self._plan.shows_ids else kept
        if ids != self._so_far():  # an older vLLM has begun from the messages
            return self._refuse()
        return b"" if self._plan.chat else kept  # with the role, which was shown

    def _without_ids(self, event: bytes) -> bytes:
        """Return what goes on of an event that tells no ids, or not where they belong."""
        if self._awaits_prompt and self._continues and event:
            return self._refuse()
        self.whole = self.whole or self._ends(event)
        self._told_usage = self._told_usage or _NO_CHOICES in event
        known = self._told_usage or (_ROLE in event and bool(self._prompt)) or not event
        self._lost = self._lost or not known
        return event

    def _ends(self, event: bytes) -> bool:
        """Return whether an event without ids says why an answer ends that has told ids."""
        return bool(self._prompt) and _FINISH in event and _GOES_ON not in event

    def _note(self, event: bytes, ids: bytes) -> bool:
        """Count what an event shows; return whether it goes on as it began."""
        at = event.find(self._mark)
        text = at >= 0 and event[at + len(self._mark)] != _QUOTE
        self.whole = _GOES_ON not in event
        if ids:
            ids += b","
        if text or (self._reasons and _REASONING in event):
            self._reasons = self._reasons and not text
            self._last, self._last_event, self._text_came_last = ids, event, True
            self._last_held = bytes(self._held) if self._held else b""
        elif self._plan.parsed and _CALLS in event:
            self._lost = True
        elif not self.whole:
            if at >= 0 or _NO_DELTA in event:
                self._held += ids
                return True
            if self._continues:  # what goes on as text was none for the next worker
                return False
            self._text_came_last = False
        if self._held:
            self._ids += self._held
            self._held.clear()
        self._ids += ids
        return True

    def _other(self, event: bytes) -> bytes:
        if event == DONE and self._prompt and not self.whole:  # vLLM's, when it is told to end
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

    def _so_far(self) -> bytes:
        return (self._prompt + b"," + self._ids).rstrip(b",")

    def _prompt_tokens(self) -> int:
        return self._prompt.count(b",") + 1

    def _with_whole_usage(self, event: bytes) -> bytes:
        """Move what was said before from the prompt's tokens to the answer's."""
        found = orjson.loads(event[len(b"data: ") :])
        usage = found["usage"]
        usage["prompt_tokens"] -= self._before
        usage["completion_tokens"] += self._before
        details = usage.get("prompt_tokens_details") or {}
        if details.get("cached_tokens") is not None:
            details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])
        return b"data: " + orjson.dumps(found) + b"\n\n"
