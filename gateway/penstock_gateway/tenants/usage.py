"""Counts the tokens of an answer from the bytes that pass by, without parsing them.

The server's own count is taken where the answer has one: always when it is not streamed, with
`stream_options.include_usage` when it is. Else the ids count that went by with the events, and
without those every event as a token.
"""

import re

TAIL = 1024
"""Bytes at the end of an answer in which its usage is looked for."""

# Inside a generated text the quotes would be escaped.
_TOTAL = re.compile(rb'"total_tokens":\s*(\d+)')


class Usage:
    """The usage of one answer.

    Args:
        prompt_tokens: an estimate, for answers that do not tell.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.seen = 0
        """Tokens of prompt and answer whose ids went by."""
        self._prompt_tokens = prompt_tokens
        self._events = 0
        self._tail = b""

    def saw(self, piece: bytes) -> None:
        """A piece of the answer has passed by."""
        self._events += piece.count(b"data: {")
        self._tail = (self._tail + piece)[-TAIL:]

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer; 0 when there was none."""
        if not self._tail:
            return 0
        told = _TOTAL.findall(self._tail)
        return int(told[-1]) if told else self.seen or self._prompt_tokens + self._events
