"""What the routes act on: the served model, its engine, and whether new requests may come."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.answer import Answer, Delta, Stopping
from penstock_worker.server.bodies import Bodies, ChatBodies, CompletionBodies, Head
from penstock_worker.server.engine_client import EngineClient
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.prepare import (
    Served,
    chat_prompt,
    completion_prompts,
    engine_requests,
    refuse_unsupported,
)
from penstock_worker.server.protocol import ChatRequest, CompletionRequest
from penstock_worker.server.stream import DONE, event

RETRY_AFTER = 1.0
"""Seconds; another worker can take the request at once, so the gateway need not wait."""


class Service:
    """One served model.

    Args:
        served: the model; None until the engine is ready.
        names: served names, the first of which labels the metrics.
        client: the engine.
        metrics: where everything is counted.
    """

    def __init__(
        self, names: tuple[str, ...], client: EngineClient, metrics: WorkerMetrics
    ) -> None:
        self.names = names
        self.client = client
        self.metrics = metrics
        self.served: Served | None = None
        self.epoch = ""
        self.created = int(time.time())
        self.draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> str:
        """`ok`, `loading`, `draining` or `failed`."""
        if self.client.died.is_set():
            return "failed"
        if self.draining:
            return "draining"
        return "ok" if self.served is not None else "loading"

    def model(self, name: str | None) -> Served:
        """Return the model for a new request.

        Raises:
            ApiError: it is another model's name, or the worker takes nothing now.
        """
        if name is not None and name not in self.names:
            raise ApiError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The model {name!r} is not served here; served: {', '.join(self.names)}.",
                param="model",
            )
        if self.draining:
            raise ApiError(
                ErrorCode.SHUTTING_DOWN, "the worker is draining", retry_after=RETRY_AFTER
            )
        if self.served is None or self.client.died.is_set():
            raise ApiError(
                ErrorCode.NO_CAPACITY, f"the worker is {self.state}", retry_after=RETRY_AFTER
            )
        return self.served

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request for as long as it runs; draining waits for it."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def drain(self, patience: float) -> bool:
        """Refuse new requests and wait for the running ones; False when the time is over."""
        self.draining = True
        self.metrics.draining()
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def give_up(self) -> None:
        """End what still runs, each with an error that its client sees."""
        self.client.give_up("the worker was stopped before the answer was complete")
        async with asyncio.timeout(1.0):
            await self._idle.wait()

    async def answer(self, request: ChatRequest | CompletionRequest) -> tuple[Answer, Bodies, int]:
        """Return the answer to a request, how it is shaped, and its number of choices."""
        served = self.model(request.model)
        refuse_unsupported(request)
        # Tokenising a long prompt takes milliseconds, in which other streams must go on.
        with self.in_flight():
            prompts = await asyncio.to_thread(_prompts, served, request)
        chat = isinstance(request, ChatRequest)
        request_id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        seed = random.getrandbits(63)
        requests = engine_requests(served, request, prompts, request_id, seed)
        skip = request.skip_special_tokens
        texts = [served.tokenizer.stream(r.prompt, skip_special_tokens=skip) for r in requests]
        count = sum(map(len, prompts))
        stopping = Stopping(tuple(request.stops), request.min_tokens)
        answer = Answer(self.client, requests, texts, stopping, count, request.n, self.metrics)
        head = Head(request_id, int(time.time()), request.model)
        return answer, _bodies(served, request, prompts, head), len(requests)


def _prompts(served: Served, request: ChatRequest | CompletionRequest) -> list[list[int]]:
    if isinstance(request, ChatRequest):
        return [chat_prompt(served, request.messages)]
    return completion_prompts(served, request)


def _bodies(
    served: Served, request: ChatRequest | CompletionRequest, prompts: list[list[int]], head: Head
) -> Bodies:
    if isinstance(request, ChatRequest):
        return ChatBodies(head, served.tokenizer, request.logprobs)
    texts = [served.tokenizer.decode(prompt) for prompt in prompts if request.echo]
    echoes = [text for text in texts for _ in range(request.n)]
    return CompletionBodies(head, served.tokenizer, request.logprobs is not None, echoes)


async def events(
    service: Service, answer: Answer, bodies: Bodies, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the server-sent events of a streamed answer."""
    usage_field: dict[str, Any] = {"usage": None} if include_usage else {}
    with service.in_flight():
        async with aclosing(answer.deltas()) as deltas:
            async for delta in deltas:
                yield event({**bodies.chunk(delta), **usage_field})
        if include_usage:
            yield event(bodies.usage_chunk(answer.usage.body()))
        yield DONE


async def whole(service: Service, answer: Answer, bodies: Bodies, choices: int) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    found: list[list[Delta]] = [[] for _ in range(choices)]
    with service.in_flight():
        async with aclosing(answer.deltas()) as deltas:
            async for delta in deltas:
                found[delta.index].append(delta)
    return bodies.whole(found, answer.usage.body())
