"""The JSON bodies of answers, streamed and whole, for both completion endpoints."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from penstock_worker.messages import TokenLogprobs
from penstock_worker.server.answer import Delta
from penstock_worker.server.logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from penstock_worker.text.tokenizer import Tokenizer
from penstock_worker.text.tool_calls import CallPiece


@dataclass(frozen=True)
class Head:
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str


@dataclass(frozen=True)
class Shown:
    """What an answer has besides its text."""

    prompts: list[list[int]]
    """Of each choice."""
    logprobs: int | None = None
    """Alternatives to each token; None for no log-probabilities."""
    prompt_logprobs: int | None = None
    token_ids: bool = False
    echo: bool = False
    """The prompt stands in front of the text."""


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
    shown: Shown
    _begun: set[int] = field(default_factory=set)

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """See `Bodies.chunk`; the first of a choice carries the role."""
        message: dict[str, Any] = {}
        body = _head(self.head, "chat.completion.chunk")
        if delta.index not in self._begun:
            if self.shown.token_ids and not self._begun:
                body["prompt_token_ids"] = self.shown.prompts[0]
            self._begun.add(delta.index)
            message = {"role": "assistant", "content": ""}
        if delta.text:
            message["content"] = delta.text
        if delta.calls:
            message["tool_calls"] = [self._piece(delta.index, piece) for piece in delta.calls]
        return {**body, "choices": [{"index": delta.index, "delta": message, **self._rest(delta)}]}

    def usage_chunk(self, usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.usage_chunk`."""
        return {**_head(self.head, "chat.completion.chunk"), "choices": [], "usage": usage}

    def whole(self, deltas: list[list[Delta]], usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.whole`."""
        joined = [_joined(found) for found in deltas]
        body = {
            **_head(self.head, "chat.completion"),
            "choices": [
                {"index": delta.index, "message": self._message(delta), **self._rest(delta)}
                for delta in joined
            ],
            "usage": usage,
        }
        prompt = self.shown.prompts[0]
        if self.shown.prompt_logprobs is not None:
            found, count = joined[0].prompt_logprobs, self.shown.prompt_logprobs
            body["prompt_logprobs"] = prompt_logprobs(self.tokenizer, prompt, found, count)
        if self.shown.token_ids:
            body["prompt_token_ids"] = prompt
        return body

    def _rest(self, delta: Delta) -> dict[str, Any]:
        logprobs = None
        if self.shown.logprobs is not None:
            logprobs = chat_logprobs(self.tokenizer, delta.tokens, delta.logprobs)
        rest = {"logprobs": logprobs, "finish_reason": delta.finish_reason}
        return {**rest, "token_ids": delta.tokens} if self.shown.token_ids else rest

    def _message(self, delta: Delta) -> dict[str, Any]:
        calls: list[dict[str, Any]] = []
        for piece in delta.calls:
            if piece.name:
                calls.append(self._piece(delta.index, piece))
                del calls[-1]["index"]
            else:
                calls[piece.index]["function"]["arguments"] += piece.arguments
        if not calls:
            return {"role": "assistant", "content": delta.text}
        return {"role": "assistant", "content": delta.text or None, "tool_calls": calls}

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


@dataclass
class CompletionBodies:
    """`text_completion`."""

    head: Head
    tokenizer: Tokenizer
    shown: Shown
    _lengths: dict[int, int] = field(default_factory=dict)
    """Of each begun choice's text, as far as its tokens' log-probabilities were told."""

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """See `Bodies.chunk`."""
        return {**_head(self.head, "text_completion"), "choices": [self._choice(delta)]}

    def usage_chunk(self, usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.usage_chunk`."""
        return {**_head(self.head, "text_completion"), "choices": [], "usage": usage}

    def whole(self, deltas: list[list[Delta]], usage: dict[str, object]) -> dict[str, Any]:
        """See `Bodies.whole`."""
        choices = [self._choice(_joined(found)) for found in deltas]
        return {**_head(self.head, "text_completion"), "choices": choices, "usage": usage}

    def _choice(self, delta: Delta) -> dict[str, Any]:
        prompt = self.shown.prompts[delta.index]
        first = delta.index not in self._lengths
        tokens, logprobs = delta.tokens, list[TokenLogprobs | None](delta.logprobs)
        choice: dict[str, Any] = {"index": delta.index, "text": delta.text, "logprobs": None}
        if first and self.shown.echo:
            choice["text"] = self.tokenizer.decode(prompt) + delta.text
            tokens, logprobs = [*prompt, *tokens], [None, *delta.prompt_logprobs, *logprobs]
        begin = self._lengths.setdefault(delta.index, 0)
        if self.shown.logprobs is not None:
            told = sum(len(self.tokenizer.decode([token])) for token in tokens)
            self._lengths[delta.index] = begin + told
            choice["logprobs"] = completion_logprobs(
                self.tokenizer, tokens, logprobs, self.shown.logprobs, begin
            )
        choice["finish_reason"] = delta.finish_reason
        if first and self.shown.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                self.tokenizer, prompt, delta.prompt_logprobs, self.shown.prompt_logprobs
            )
        if self.shown.token_ids:
            choice["token_ids"] = delta.tokens
            if first:
                choice["prompt_token_ids"] = prompt
        return choice


def _head(head: Head, kind: str) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


def _joined(deltas: list[Delta]) -> Delta:
    """Return a choice's deltas as one."""
    return replace(
        deltas[-1],
        text="".join(delta.text for delta in deltas),
        tokens=[token for delta in deltas for token in delta.tokens],
        logprobs=[entry for delta in deltas for entry in delta.logprobs],
        calls=[piece for delta in deltas for piece in delta.calls],
        prompt_logprobs=[entry for delta in deltas for entry in delta.prompt_logprobs],
    )
