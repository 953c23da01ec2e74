"""The JSON bodies of answers, streamed and whole, for both completion endpoints."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock_worker.messages import TokenLogprobs
from penstock_worker.server.answer import Delta
from penstock_worker.text.tokenizer import Tokenizer
from penstock_worker.text.tool_calls import CallPiece


@dataclass(frozen=True)
class Head:
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str


class Bodies(Protocol):
    """Shapes one endpoint's answers."""

    head: Head

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """Return a streamed chunk."""

    def usage_chunk(self, usage: dict[str, object]) -> dict[str, Any]:
        """Return the chunk that carries usage."""

    def whole(self, deltas: list[list[Delta]], usage: dict[str, object]) -> dict[str, Any]:
        """Return the answer that is not streamed, from the deltas of each choice."""


@dataclass
class ChatBodies:
    """`chat.completion` and `chat.completion.chunk`."""

    head: Head
    tokenizer: Tokenizer
    with_logprobs: bool
    _begun: set[int] = field(default_factory=set)

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """See `Bodies.chunk`; the first of a choice carries the role."""
        message: dict[str, Any] = {}
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            message = {"role": "assistant", "content": ""}
        if delta.text:
            message["content"] = delta.text
        if delta.calls:
            message["tool_calls"] = [self._piece(delta.index, piece) for piece in delta.calls]
        choice = {
            "index": delta.index,
            "delta": message,
            "logprobs": self._logprobs(delta.tokens, delta.logprobs),
            "finish_reason": delta.finish_reason,
        }
        return {**_head(self.head, "chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.usage_chunk`."""
        return {**_head(self.head, "chat.completion.chunk"), "choices": [], "usage": usage}

    def whole(self, deltas: list[list[Delta]], usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.whole`."""
        choices = [
            {
                "index": index,
                "message": self._message(index, found),
                "logprobs": self._logprobs(*_joined(found)),
                "finish_reason": found[-1].finish_reason,
            }
            for index, found in enumerate(deltas)
        ]
        return {**_head(self.head, "chat.completion"), "choices": choices, "usage": usage}

    def _message(self, index: int, deltas: list[Delta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        calls: list[dict[str, Any]] = []
        for piece in (piece for delta in deltas for piece in delta.calls):
            if piece.name:
                calls.append(self._piece(index, piece))
                del calls[-1]["index"]
            else:
                calls[piece.index]["function"]["arguments"] += piece.arguments
        if not calls:
            return {"role": "assistant", "content": text}
        return {"role": "assistant", "content": text or None, "tool_calls": calls}

    def _piece(self, choice: int, piece: CallPiece) -> dict[str, Any]:
        """The first piece of a call has its id and name, all have arguments."""
        if not piece.name:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        return {
            "index": piece.index,
            "id": self._call_id(choice, piece.index),
            "type": "function",
            "function": {"name": piece.name, "arguments": piece.arguments},
        }

    def _call_id(self, choice: int, call: int) -> str:
        """A function of the answer's id, so that a stream that is resumed elsewhere keeps it."""
        place = f"{self.head.id}/{choice}/{call}".encode()
        return "call_" + hashlib.blake2b(place, digest_size=12).hexdigest()

    def _logprobs(self, tokens: list[int], logprobs: list[TokenLogprobs]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        content = [
            {
                **self._token(token, entry.logprob),
                "top_logprobs": [self._token(other, value) for other, value in entry.top],
            }
            for token, entry in zip(tokens, logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(self.tokenizer.bytes_of(token))}


@dataclass
class CompletionBodies:
    """`text_completion`; `echoes` are prompt texts to put in front, one per choice, or empty."""

    head: Head
    tokenizer: Tokenizer
    with_logprobs: bool
    echoes: list[str]
    _lengths: dict[int, int] = field(default_factory=dict)

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """See `Bodies.chunk`."""
        return {**_head(self.head, "text_completion"), "choices": [self._choice(delta)]}

    def usage_chunk(self, usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.usage_chunk`."""
        return {**_head(self.head, "text_completion"), "choices": [], "usage": usage}

    def whole(self, deltas: list[list[Delta]], usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.whole`."""
        choices = []
        for index, found in enumerate(deltas):
            tokens, logprobs = _joined(found)
            text = "".join(delta.text for delta in found)
            joined = Delta(index, text, tokens, logprobs, found[-1].finish_reason)
            choices.append(self._choice(joined))
        return {**_head(self.head, "text_completion"), "choices": choices, "usage": usage}

    def _choice(self, delta: Delta) -> dict[str, Any]:
        text = delta.text
        if delta.index not in self._lengths:
            self._lengths[delta.index] = 0
            text = (self.echoes[delta.index] if self.echoes else "") + text
        logprobs = self._logprobs(delta) if self.with_logprobs else None
        return {
            "index": delta.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": delta.finish_reason,
        }

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        texts = [self._text(token) for token in delta.tokens]
        offsets = []
        for text in texts:
            offsets.append(self._lengths[delta.index])
            self._lengths[delta.index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in delta.logprobs],
            "top_logprobs": [
                {self._text(token): value for token, value in entry.top} for entry in delta.logprobs
            ],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)


def _head(head: Head, kind: str) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


def _joined(deltas: list[Delta]) -> tuple[list[int], list[TokenLogprobs]]:
    tokens = [token for delta in deltas for token in delta.tokens]
    logprobs = [entry for delta in deltas for entry in delta.logprobs]
    return tokens, logprobs
