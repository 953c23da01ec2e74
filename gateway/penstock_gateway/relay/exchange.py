"""Carries one request to a worker and its answer back, and accounts for how it ended.

The head of an answer is held until the first piece of its body is there: until then a worker that
fails costs a retry on the next best one, and the client sees nothing of it. After that it already
has a part of the answer: then a stream ends with an error event and an unclean close, and anything
else with an unclean close alone, so that no client takes a part for the whole.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.requests import Request
from starlette.types import Send

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetModel, FleetWorker
from penstock_contract.metrics import Outcome
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.leaving import ClientLeft, disconnected, unless
from penstock_gateway.relay.request import Wanted, client_headers, worker_request
from penstock_gateway.relay.upstream import Connection, Pool, Response, UpstreamError
from penstock_gateway.routing.load import Router, Ticket
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import PrefixKey, prefix_keys
from penstock_gateway.routing.split import attempts, preferred, session_key

log = logging.getLogger("penstock.gateway.relay")

ATTEMPTS = 2
"""Workers tried before the first byte."""
MAX_REFUSAL = 64 * 1024
"""Bytes of a refusal that are read to learn its code."""


class _Refused(Exception):
    """The worker does not take the request now; another one may."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.leaving = code in (ErrorCode.SHUTTING_DOWN.code, ErrorCode.HANDED_BACK.code)


@dataclass(frozen=True)
class Shared:
    """What an exchange needs of its gateway."""

    router: Router
    pool: Pool
    clock: Callable[[], float]
    live: set[Connection]
    stopping: Callable[[], bool]
    debug_headers: bool


@dataclass(frozen=True)
class Admitted:
    """A request that is to be served."""

    request: Request
    body: bytes
    wanted: Wanted
    model: FleetModel
    metrics: RequestMetrics


@dataclass
class _Answer:
    """An answer that has begun."""

    response: Response
    first: bytes
    """Nothing when the body is empty."""
    rest: AsyncGenerator[bytes, None]


@dataclass
class _Ended:
    """How an attempt ended, for the worker's account; a client that left says nothing about it."""

    counts: bool = False
    failed: bool = False
    down: bool = False


class Exchange:
    """One request on its way."""

    def __init__(self, shared: Shared, admitted: Admitted) -> None:
        self._shared = shared
        self._admitted = admitted
        self._request = admitted.request
        self._id = headers.request_id(self._request.headers.get(headers.REQUEST_ID))
        self._prompt = admitted.wanted.prompt
        self._keys: list[PrefixKey] = []

    async def run(self, workers: list[FleetWorker], send: Send) -> Outcome:
        """Try workers until one begins to answer, then relay its answer.

        Raises:
            ApiError: none did; nothing was sent yet.
        """
        received = self._shared.clock()
        choices = self._choose(workers)
        urls = {worker.id: worker.url for worker in workers}
        metrics = self._admitted.metrics
        for number, choice in enumerate(choices):
            if number:
                metrics.retried()
            metrics.dispatched(received, choice.matched_bytes, self._shared.clock())
            last = number == len(choices) - 1
            try:
                return await self._attempt(choice, urls[choice.id], send, last=last)
            except (UpstreamError, _Refused) as error:
                log.warning("worker %s failed before its first byte: %s", choice.id, error)
            except ClientLeft:
                return Outcome.CANCELLED
            if self._shared.stopping():
                raise ApiError(ErrorCode.SHUTTING_DOWN, "The gateway is stopping.")
        name = self._admitted.model.name
        raise ApiError(ErrorCode.UPSTREAM_FAILED, f"No worker of {name!r} could answer.")

    def _choose(self, workers: list[FleetWorker]) -> list[Choice]:
        """Return the workers to try in turn."""
        model = self._admitted.model
        self._keys = prefix_keys(self._prompt, model.deployment.encode())
        affinity = self._request.headers.get(headers.SESSION_AFFINITY)
        session = session_key(affinity, self._keys, self._prompt)
        ranking = self._shared.router.rank(
            workers,
            self._keys,
            len(self._prompt),
            tie=random.random(),
            preferred=preferred(workers, model.canary, session),
        )
        revision = model.canary.revision if model.canary else None
        trial = frozenset(worker.id for worker in workers if worker.revision == revision)
        return attempts(ranking, trial, ATTEMPTS)

    async def _attempt(self, choice: Choice, url: str, send: Send, *, last: bool) -> Outcome:
        """Give the request to one worker.

        Raises:
            UpstreamError: it failed, and nothing was sent on.
            _Refused: it does not take the request, and there is another worker.
            ClientLeft: at any time.
        """
        router = self._shared.router
        ticket = router.take(choice, self._keys, len(self._prompt))
        leaving = asyncio.create_task(disconnected(self._request.receive))
        connection: Connection | None = None
        ended = _Ended()
        try:
            opened, response = await unless(leaving, self._open(url))
            connection = opened
            beginning = _begin(response, opened.body(), last=last)
            answer = await unless(leaving, beginning)
            sending = self._relay(answer, choice, ticket, send)
            broken = await unless(leaving, sending)
            if broken:
                log.warning("worker %s broke off: %s", choice.id, broken)
            failed = bool(broken) or answer.response.status >= 500
            ended = _Ended(counts=True, failed=failed, down=bool(broken))
            return Outcome.ERROR if failed else Outcome.COMPLETE
        except UpstreamError:
            ended = _Ended(counts=True, failed=True, down=True)
            raise
        except _Refused as refusal:
            ended = _Ended(counts=not refusal.leaving, failed=True)
            raise
        finally:
            leaving.cancel()
            self._account(ticket, ended)
            if connection is not None:
                self._shared.live.discard(connection)
                self._shared.pool.give_back(url, connection)

    def _account(self, ticket: Ticket, ended: _Ended) -> None:
        """A stream that this gateway cut at its own end is not its worker's failure."""
        fair = not self._shared.stopping()
        down_at = self._shared.clock() if ended.down and fair else None
        self._shared.router.ended(
            ticket, counts=ended.counts and fair, failed=ended.failed, down_at=down_at
        )

    async def _open(self, url: str) -> tuple[Connection, Response]:
        """Send the request, and wait for the head of its answer.

        A kept connection that turns out to be dead is replaced by a new one: that is a retry, too.
        """
        where = urlsplit(url)
        data = worker_request(
            self._request.url.path,
            where.netloc,
            self._id,
            self._request.headers.raw,
            self._admitted.body,
        )
        kept = self._shared.pool.idle(url)
        if kept is not None:
            with suppress(UpstreamError):
                return await self._ask(kept, data)
            log.debug("an idle connection to %s was closed", url)
            self._admitted.metrics.retried()
        return await self._ask(await self._shared.pool.connect(url), data)

    async def _ask(self, connection: Connection, data: bytes) -> tuple[Connection, Response]:
        self._shared.live.add(connection)
        try:
            return connection, await connection.send(data)
        except BaseException:
            connection.abort()
            self._shared.live.discard(connection)
            raise

    async def _relay(self, answer: _Answer, choice: Choice, ticket: Ticket, send: Send) -> str:
        """Relay an answer; returns why it could not be finished, or nothing."""
        self._shared.router.answered(ticket)
        self._admitted.metrics.first_byte(self._shared.clock())
        await send(self._head(answer.response, choice))
        try:
            await send(_piece(answer.first))
            async for chunk in answer.rest:
                await send(_piece(chunk))
        except UpstreamError as error:
            if answer.response.header(b"content-type").startswith(b"text/event-stream"):
                await send(_piece(_lost_event()))
            return str(error)  # the response stays unfinished: the server closes uncleanly
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return ""

    def _head(self, response: Response, choice: Choice) -> dict[str, Any]:
        own = [(headers.REQUEST_ID, self._id)]
        if self._shared.debug_headers:
            own += [(headers.WORKER, choice.id), (headers.ROUTE_REASON, choice.reason)]
        return {
            "type": "http.response.start",
            "status": response.status,
            "headers": client_headers(response.headers, own),
        }


async def _begin(response: Response, rest: AsyncGenerator[bytes, None], *, last: bool) -> _Answer:
    """Return an answer together with the first piece of its body."""
    if response.status == ErrorCode.SHUTTING_DOWN.status and not last:
        raise _Refused(await _code(rest))
    return _Answer(response, await anext(rest, b""), rest)


async def _code(body: AsyncGenerator[bytes, None]) -> str:
    """Return the error code in a refusal's body, or nothing."""
    found = b""
    async for chunk in body:
        found += chunk
        if len(found) > MAX_REFUSAL:
            break
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        return str(orjson.loads(found)["error"]["code"])
    return ""


def _piece(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _lost_event() -> bytes:
    error = ApiError(
        ErrorCode.UPSTREAM_FAILED,
        "The worker was lost while it answered; the answer is incomplete.",
    )
    # An event may have been cut: a blank line ends it, so that the error stands on its own.
    return b"\n\ndata: " + orjson.dumps(error.body()) + b"\n\n"
