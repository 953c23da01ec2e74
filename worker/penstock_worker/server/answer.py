"""Turns a request's engine outputs into choices: text, stop strings, log-probabilities, usage."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.journal import ResumedChoice
from penstock_worker.messages import AddRequest, FinishReason, Output, TokenLogprobs
from penstock_worker.server.engine_client import EngineClient, EngineDied, HandedBack
from penstock_worker.server.metrics import RequestMetrics, WorkerMetrics
from penstock_worker.server.tools import Offered
from penstock_worker.text.stop import StopStrings
from penstock_worker.text.tokenizer import TextStream
from penstock_worker.text.tool_calls import CallPiece, Parsed, ToolCalls

TOOL_CALLS = "tool_calls"
"""The finish reason of an answer that calls."""


@dataclass
class Delta:
    """What one engine output adds to one choice; empty deltas are not shown."""

    index: int
    text: str
    tokens: list[int]
    logprobs: list[TokenLogprobs]
    finish_reason: str | None
    cached_tokens: int = 0
    """Prompt tokens that were cached; with the first delta of a choice that counts them."""
    calls: list[CallPiece] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """With the first delta, where asked for."""


@dataclass
class Usage:
    """Tokens of a whole API request."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def body(self) -> dict[str, object]:
        """Return the `usage` object of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True)
class Stopping:
    """Stop strings, which count only after `min_tokens`."""

    strings: tuple[str, ...] = ()
    min_tokens: int = 0


@dataclass
class _Choice:
    """One choice on its way: text that may still be a stop string is kept back with its tokens."""

    index: int
    text: TextStream
    stop: StopStrings
    metrics: RequestMetrics
    min_tokens: int
    tools: ToolCalls | None = None
    """Finds calls in the text; None where there can be none."""
    tokens: int = 0
    pending: list[int] = field(default_factory=list)
    pending_logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    counted: bool = False
    cached_tokens: int = 0
    """Of the prompt, until a delta has reported them."""
    finished: bool = False

    def take(self, output: Output) -> Delta | None:
        """Return what an output of at most one token makes visible."""
        piece = ""
        self.prompt_logprobs += output.prompt_logprobs
        for token in output.tokens:
            self.pending.append(token)
            self.pending_logprobs += output.logprobs
            self.tokens += 1
            if output.finish_reason is not FinishReason.STOP:  # a stop token is not part of it
                text = self.text.feed(token)
                piece = text if self.tokens < self.min_tokens else self.stop.feed(text)
        reason = output.finish_reason
        if self.stop.matched:
            reason = FinishReason.STOP
        elif reason is not None:
            piece += self.stop.flush()
        found = self._parsed(piece, last=reason is not None)
        if not found.text and not found.calls and reason is None:
            return None
        self.finished = reason is not None
        delta = Delta(
            self.index,
            found.text,
            self.pending,
            self.pending_logprobs,
            self._shown_as(reason),
            self.cached_tokens,
            found.calls,
            self.prompt_logprobs,
        )
        self.pending, self.pending_logprobs, self.cached_tokens = [], [], 0
        self.prompt_logprobs = []
        return delta

    def _parsed(self, piece: str, *, last: bool) -> Parsed:
        if self.tools is None:
            return Parsed(piece)
        found = self.tools.feed(piece)
        if last:
            rest = self.tools.flush()
            found = Parsed(found.text + rest.text, found.calls + rest.calls)
        return found

    def _shown_as(self, reason: FinishReason | None) -> str | None:
        if reason is FinishReason.STOP and self.tools is not None and self.tools.count:
            return TOOL_CALLS
        return None if reason is None else str(reason)

    def replay(self, given: ResumedChoice, with_logprobs: bool) -> list[Delta]:
        """Return to where the choice was after tokens that have been shown already."""
        self.counted = True
        unknown = [TokenLogprobs(0.0, [])] if with_logprobs else []
        outputs = [Output("", [token], logprobs=unknown) for token in given.tokens]
        deltas = [delta for output in outputs if (delta := self.take(output)) is not None]
        self.pending, self.pending_logprobs = [], []
        self.finished = given.finish_reason is not None
        return deltas


class Answer:
    """Generates all choices of an API request.

    Args:
        client: the engine.
        requests: one engine request per choice, in the order of indices.
        texts: an incremental decoder per choice.
        stopping: when text ends an answer.
        prompt_tokens: of all prompts together, each counted once.
        choices_per_prompt: the API request's `n`.
        metrics: where the requests' latencies and sizes are kept.
        given: what was shown of choices before, by index; `replayed` is what it was shown as.
        tools: that the model may call.
    """

    def __init__(
        self,
        client: EngineClient,
        requests: list[AddRequest],
        texts: list[TextStream],
        stopping: Stopping,
        prompt_tokens: int,
        choices_per_prompt: int,
        metrics: WorkerMetrics,
        given: dict[int, ResumedChoice] | None = None,
        tools: Offered | None = None,
    ) -> None:
        arrived = time.monotonic()
        self.usage = Usage(prompt_tokens=prompt_tokens)
        self.kept: dict[str, Any] | None = None
        """Where another worker finds the prompt's blocks, if they were to be kept."""
        self._client = client
        self._requests = requests
        self._choices_per_prompt = choices_per_prompt
        self._choices = {
            request.id: _Choice(
                index,
                text,
                StopStrings(stopping.strings),
                metrics.request(len(request.prompt), arrived),
                stopping.min_tokens,
                tools.reader() if tools else None,
            )
            for index, (request, text) in enumerate(zip(requests, texts, strict=True))
        }
        self.replayed = [
            delta for place, shown in (given or {}).items() for delta in self._replay(place, shown)
        ]

    @property
    def seed(self) -> int:
        """What the draws of all choices depend on."""
        return self._requests[0].sampling.seed

    @property
    def ttft(self) -> float | None:
        """Seconds until the first token of any choice; None: it has not come."""
        found = [choice.metrics.ttft for choice in self._choices.values()]
        return min((ttft for ttft in found if ttft is not None), default=None)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Yield deltas of all choices, interleaved as they come.

        Raises:
            ApiError: the engine refused a request or died, or the worker leaves.
        """
        try:
            unfinished = [r for r in self._requests if not self._choices[r.id].finished]
            async with aclosing(self._client.generate(unfinished)) as outputs:
                async for output in outputs:
                    for delta in self._take(output):
                        yield delta
        except HandedBack as error:
            message = "the worker leaves before the answer is complete: continue on another one"
            raise ApiError(ErrorCode.HANDED_BACK, message, retry_after=0.1) from error
        except EngineDied as error:
            raise ApiError(ErrorCode.INTERNAL_ERROR, f"the engine died: {error}") from error
        finally:
            for choice in self._choices.values():
                if not choice.finished:
                    choice.metrics.finished("abort", time.monotonic())

    def _replay(self, index: int, given: ResumedChoice) -> list[Delta]:
        request = self._requests[index]
        self.usage.completion_tokens += len(given.tokens)
        self.usage.cached_tokens += given.cached_tokens
        return self._choices[request.id].replay(given, request.sampling.logprobs is not None)

    def _take(self, output: Output) -> Iterator[Delta]:
        choice = self._choices[output.id]
        if choice.finished:
            return
        if output.finish_reason is FinishReason.ABORT:
            raise ApiError(ErrorCode.INVALID_REQUEST, output.error)
        if output.finish_reason is FinishReason.DEADLINE:
            message = "the request's deadline passed before the answer was complete"
            raise ApiError(ErrorCode.DEADLINE_EXCEEDED, message)
        if not choice.counted:
            choice.counted = True
            # Further choices of a prompt find it cached by the first: only the first one counts.
            if choice.index % self._choices_per_prompt == 0:
                self.usage.cached_tokens += output.cached_tokens
                choice.cached_tokens = output.cached_tokens
        if output.kept is not None:
            self.kept = output.kept
        now = time.monotonic()
        choice.metrics.output(output, now)
        for one in _singly(output):
            delta = choice.take(one)
            self.usage.completion_tokens += len(one.tokens)
            if delta is None:
                continue
            if delta.finish_reason is None:
                yield delta
                continue
            reason = delta.finish_reason
            choice.metrics.finished("stop" if reason == TOOL_CALLS else reason, now)
            if output.finish_reason is None:  # a stop string came
                self._client.finish_early(output.id)
            yield delta
            return  # what a step guessed beyond it was never asked for


def _singly(output: Output) -> list[Output]:
    """Return an output token by token: what is shown does not depend on what steps guessed."""
    count = len(output.tokens)
    if count <= 1:
        return [output]
    return [
        Output(
            id=output.id,
            tokens=[token],
            finish_reason=output.finish_reason if place == count - 1 else None,
            logprobs=output.logprobs[place : place + 1],
            prompt_logprobs=[] if place else output.prompt_logprobs,
        )
        for place, token in enumerate(output.tokens)
    ]
