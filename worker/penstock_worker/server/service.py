"""What the routes act on: the served model, its engine, and whether new requests may come."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from penstock_contract import handoff, journal
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.tasks import CHAT, COMPLETIONS, refuse_other_task
from penstock_worker.server.answer import Answer, Delta, Stopping
from penstock_worker.server.bodies import Bodies, ChatBodies, CompletionBodies, Head, Shown
from penstock_worker.server.engine_client import EngineClient
from penstock_worker.server.handoff import handed_over
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.prepare import (
    check_limits,
    engine_requests,
    refuse_unsupported,
    wanted_logprobs,
)
from penstock_worker.server.prompts import chat_prompt, completion_prompts, truncated
from penstock_worker.server.protocol import ChatRequest, CompletionRequest
from penstock_worker.server.resume import resumed
from penstock_worker.server.served import Served
from penstock_worker.server.stream import DONE, event
from penstock_worker.server.structured import Grammar, checked, grammar
from penstock_worker.server.tools import Offered, offered
from penstock_worker.server.trusted import Trusted

RETRY_AFTER = 1.0
"""Seconds; another worker can take the request at once, so the gateway need not wait."""

HAND_BACK_SECONDS = 1.0
"""For the last error event of every stream, once the grace is over."""


class Service:
    """One served model.

    Args:
        names: served names, the first of which labels the metrics.
        client: the engine.
        metrics: where everything is counted.
        adapters: folders of adapters on the model, by the names that stand for them; it changes.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        client: EngineClient,
        metrics: WorkerMetrics,
        adapters: dict[str, str] | None = None,
    ) -> None:
        self.names = names
        self.adapters = {} if adapters is None else adapters
        self.client = client
        self.metrics = metrics
        self.served: Served | None = None
        """None until the engine is ready."""
        self.epoch = ""
        self.created = int(time.time())
        self._leaving = False
        self._set_aside = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # One thread: hostile grammars wait for each other, and nothing else waits for them.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")

    @property
    def state(self) -> str:
        """`ok`, `loading`, `draining` or `failed`."""
        if self.client.died.is_set():
            return "failed"
        if self.draining:
            return "draining"
        return "ok" if self.served is not None else "loading"

    @property
    def draining(self) -> bool:
        """Whether new requests are refused: until that is taken back, or for good."""
        return self._set_aside or self._leaving

    def set_aside(self, *, aside: bool) -> None:
        """Refuse new requests or take them again; what runs goes on either way.

        A worker that was told to end refuses them for good.
        """
        self._set_aside = aside
        self.metrics.draining(draining=self.draining)

    def model(self, name: str | None) -> Served:
        """Return the model for a new request.

        Raises:
            ApiError: it is another model's name, or the worker takes nothing now.
        """
        known = (*self.names, *self.adapters)
        if name is not None and name not in known:
            raise ApiError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The model {name!r} is not served here; served: {', '.join(known)}.",
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

    @contextlib.contextmanager
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
        """Refuse new requests and wait for the running ones, and for those who have leases.

        Returns False when the time is over first.
        """
        self._leaving = True
        self.metrics.draining(draining=True)
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
                await self.client.unleased.wait()
        except TimeoutError:
            return False
        return True

    async def hand_back(self) -> None:
        """End what still runs, each with an error that asks to continue it on another worker."""
        self.client.hand_back()
        with contextlib.suppress(TimeoutError):  # a client that does not read must not hold us
            async with asyncio.timeout(HAND_BACK_SECONDS):
                await self._idle.wait()

    async def answer(
        self, request: ChatRequest | CompletionRequest, trusted: Trusted
    ) -> tuple[Answer, Bodies, int]:
        """Return the answer to a request, how it is shaped, and its number of choices."""
        served = self.model(request.model)
        chat = isinstance(request, ChatRequest)
        refuse_other_task(request.model, served.task, CHAT if chat else COMPLETIONS)
        refuse_unsupported(request)
        check_limits(served, request)
        tools = _tools(served, request)
        # Tokenising a long prompt takes milliseconds, in which other streams must go on.
        with self.in_flight():
            wanted = await self._grammar(served, request, tools)
            prompts = await asyncio.to_thread(_prompts, served, request, tools)
        request_id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        resume = request.penstock_resume
        seed = resume.seed if resume else random.getrandbits(63)
        requests = engine_requests(
            served, request, prompts, request_id, seed, trusted, wanted.text if wanted else ""
        )
        requests, given = resumed(handed_over(requests, request), resume)
        # The marks of calls may be special tokens: then these have to be seen.
        marked = tools is not None and served.tokenizer.hides(tools.form.opening)
        skip = request.skip_special_tokens and not marked
        texts = [served.tokenizer.stream(r.prompt, skip_special_tokens=skip) for r in requests]
        count = sum(map(len, prompts))
        stopping = Stopping(tuple(request.stops), request.min_tokens)
        answer = Answer(
            self.client, requests, texts, stopping, count, request.n, self.metrics, given, tools
        )
        head = Head(request_id, int(time.time()), request.model)
        if resume:
            head = Head(resume.id, resume.created, request.model)
        bodies = _bodies(served, request, prompts, head)
        for delta in answer.replayed:
            bodies.chunk(delta)  # it has been shown: only what the bodies remember of it is wanted
        return answer, bodies, len(requests)

    async def _grammar(
        self, served: Served, request: ChatRequest | CompletionRequest, tools: Offered | None
    ) -> Grammar | None:
        """Return the grammar that a request asks for, once it has proved to be usable."""
        wanted = grammar(request, tools, served.tokenizer.is_token)
        if wanted is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._reader, checked, served.grammars, wanted)
        return wanted


def _tools(served: Served, request: ChatRequest | CompletionRequest) -> Offered | None:
    if isinstance(request, ChatRequest):
        return offered(request, served.chat_template.tool_format)
    return None


def _prompts(
    served: Served, request: ChatRequest | CompletionRequest, tools: Offered | None
) -> list[list[int]]:
    if isinstance(request, ChatRequest):
        prompt = chat_prompt(
            served,
            request.messages,
            tools.dumped() if tools else None,
            request.chat_template_kwargs,
            bounded=request.truncate_prompt_tokens is None,
        )
        return [truncated(served, request, prompt)]
    return [truncated(served, request, one) for one in completion_prompts(served, request)]


def _bodies(
    served: Served, request: ChatRequest | CompletionRequest, prompts: list[list[int]], head: Head
) -> Bodies:
    shown = Shown(
        prompts=[prompt for prompt in prompts for _ in range(request.n)],
        logprobs=wanted_logprobs(request),
        prompt_logprobs=request.prompt_logprobs,
        token_ids=request.return_token_ids,
        echo=isinstance(request, CompletionRequest) and request.echo,
    )
    kind = ChatBodies if isinstance(request, ChatRequest) else CompletionBodies
    return kind(head, served.tokenizer, shown)


async def events(
    service: Service,
    answer: Answer,
    bodies: Bodies,
    request: ChatRequest | CompletionRequest,
    journaled: bool,
) -> AsyncGenerator[bytes, None]:
    """Yield the server-sent events of a streamed answer, with or without the resume journal."""
    usage_field: dict[str, Any] = {"usage": None} if request.include_usage else {}
    resume = request.penstock_resume
    begin = b""
    if journaled and resume is None:
        begin = journal.begin_line(bodies.head.id, bodies.head.created, answer.seed)
    with service.in_flight():
        async with contextlib.aclosing(answer.deltas()) as deltas:
            async for delta in deltas:
                if request.continuous_usage:
                    usage_field = {"usage": answer.usage.body()}
                data = event({**bodies.chunk(delta), **usage_field})
                yield begin + _journal_line(delta) + data if journaled else data
                begin = b""
        if request.include_usage and not (resume and resume.usage_sent):
            data = event(bodies.usage_chunk(answer.usage.body()))
            yield journal.USAGE_LINE + data if journaled else data
        yield DONE


def _journal_line(delta: Delta) -> bytes:
    return journal.tokens_line(delta.index, delta.tokens, delta.cached_tokens, delta.finish_reason)


async def whole(service: Service, answer: Answer, bodies: Bodies, choices: int) -> dict[str, Any]:
    """Return the body of an answer that is not streamed."""
    found: list[list[Delta]] = [[] for _ in range(choices)]
    with service.in_flight():
        async with contextlib.aclosing(answer.deltas()) as deltas:
            async for delta in deltas:
                found[delta.index].append(delta)
    body = bodies.whole(found, answer.usage.body())
    return {**body, handoff.FIELD: answer.kept} if answer.kept is not None else body
