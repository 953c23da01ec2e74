"""Carries one request to a worker and its answer back, and accounts for how it ended.

A worker that fails before the first byte costs a retry on the next best one. After the first byte
the client already has a part of the answer: then a stream ends with an error event and an unclean
close, and anything else with an unclean close alone, so that no client takes a part for the whole.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetModel, FleetWorker
from penstock_contract.metrics import Outcome
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics, RequestMetrics
from penstock_gateway.relay.request import (
    Wanted,
    check_content_type,
    client_headers,
    parse,
    worker_request,
)
from penstock_gateway.relay.upstream import Connection, Pool, Response, UpstreamError
from penstock_gateway.routing.load import Router, Ticket
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import PrefixKey, prefix_keys

log = logging.getLogger("penstock.gateway.relay")

ATTEMPTS = 2
"""Workers tried before the first byte."""
NO_WORKER_RETRY_AFTER = 2.0
"""Seconds; about what a restarted worker needs to be ready."""


@dataclass(frozen=True)
class RelaySettings:
    """What an operator of the gateway may choose."""

    max_body: int
    """Bytes; larger bodies are refused."""
    debug_headers: bool = False
    """Tell clients which worker answered, and why it was chosen."""


@dataclass
class Relay:
    """All that the requests of a gateway share."""

    settings: RelaySettings
    metrics: GatewayMetrics
    router: Router
    pool: Pool
    directory: Callable[[], Directory]
    """Returns the present fleet."""
    clock: Callable[[], float] = field(default=time.monotonic)
    live: set[Connection] = field(default_factory=set)
    """Connections with an answer under way."""

    def give_up(self) -> None:
        """End every answer under way; their clients see an error."""
        for connection in self.live:
            connection.abort("the gateway is stopping")

    async def handle(self, request: Request, send: Send) -> None:
        """Serve one request whose body names a model.

        Raises:
            ApiError: it was refused, or no worker began to answer; nothing was sent yet.
        """
        arrived = self.clock()
        try:
            body = await self._body(request)
            wanted = parse(body)
            model, workers = self._workers(wanted.model)
        except ApiError as error:
            self.metrics.refused(error.code)
            raise
        metrics = self.metrics.request(model.name, len(wanted.prompt), arrived)
        exchange = _Exchange(self, request, body, wanted, model, metrics)
        outcome = Outcome.ERROR
        try:
            outcome = await exchange.run(workers, send)
        finally:
            metrics.ended(outcome, self.clock())

    async def _body(self, request: Request) -> bytes:
        limit = self.settings.max_body
        too_large = ApiError(ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {limit} bytes")
        check_content_type(request.headers.get("content-type", "").encode())
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body uncompressed")
        if int(request.headers.get("content-length", "0")) > limit:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        return bytes(body)

    def _workers(self, name: str) -> tuple[FleetModel, list[FleetWorker]]:
        directory = self.directory()
        model = directory.model(name)
        if model is None:
            raise ApiError(
                ErrorCode.MODEL_NOT_FOUND,
                f"The model {name!r} does not exist. GET /v1/models lists those that do.",
                param="model",
            )
        workers = directory.ready(model)
        if not workers:
            raise ApiError(
                ErrorCode.NO_CAPACITY,
                f"No worker of {name!r} is ready; try again soon.",
                retry_after=NO_WORKER_RETRY_AFTER,
            )
        return model, workers


@dataclass
class _Exchange:
    """One request on its way."""

    relay: Relay
    request: Request
    body: bytes
    wanted: Wanted
    model: FleetModel
    metrics: RequestMetrics

    async def run(self, workers: list[FleetWorker], send: Send) -> Outcome:
        """Try workers until one begins to answer, then relay its answer."""
        received = self.relay.clock()
        keys = prefix_keys(self.wanted.prompt, self.model.deployment.encode())
        ranking = self.relay.router.rank(
            workers, keys, len(self.wanted.prompt), tie=random.random(), now=received
        )
        urls = {worker.id: worker.url for worker in workers}
        failure = ""
        for attempt, choice in enumerate(ranking[:ATTEMPTS]):
            if attempt:
                self.metrics.retried()
            now = self.relay.clock()
            self.metrics.dispatched(received, choice.matched_bytes, now)
            try:
                return await self._attempt(choice, urls[choice.id], keys, send)
            except UpstreamError as error:
                failure = str(error)
                log.warning("worker %s failed before its first byte: %s", choice.id, failure)
        raise ApiError(ErrorCode.UPSTREAM_FAILED, f"No worker of {self.model.name!r} could answer.")

    async def _attempt(
        self, choice: Choice, url: str, keys: list[PrefixKey], send: Send
    ) -> Outcome:
        """Give the request to one worker; UpstreamError only before anything was sent on."""
        router, pool = self.relay.router, self.relay.pool
        ticket = router.take(choice, keys, len(self.wanted.prompt))
        leaving = asyncio.create_task(_disconnected(self.request.receive))
        connection: Connection | None = None
        failed_at: float | None = None
        try:
            opening = asyncio.create_task(self._open(url))
            await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                opening.cancel()
                return Outcome.CANCELLED
            connection, response = opening.result()
            self.relay.live.add(connection)
            sending = asyncio.create_task(self._send(connection, response, choice, ticket, send))
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                sending.cancel()
                return Outcome.CANCELLED
            broken = sending.result()
            if broken:
                failed_at = self.relay.clock()
                log.warning("worker %s broke off: %s", choice.id, broken)
                return Outcome.ERROR
            return Outcome.COMPLETE if response.status < 500 else Outcome.ERROR
        except UpstreamError:
            failed_at = self.relay.clock()
            raise
        finally:
            leaving.cancel()
            router.ended(ticket, failed_at=failed_at)
            if connection is not None:
                self.relay.live.discard(connection)
                pool.give_back(url, connection)

    async def _open(self, url: str) -> tuple[Connection, Response]:
        """Send the request; a kept connection that turns out dead is replaced by a new one."""
        where = urlsplit(url)
        self.request_id = headers.request_id(self.request.headers.get(headers.REQUEST_ID))
        data = worker_request(
            self.request.url.path,
            where.netloc,
            self.request_id,
            self.request.headers.raw,
            self.body,
        )
        kept = self.relay.pool.idle(url)
        if kept is not None:
            try:
                return await _sent(kept, data)
            except UpstreamError:
                log.debug("an idle connection to %s was closed", url)
        return await _sent(await self.relay.pool.connect(url), data)

    async def _send(
        self,
        connection: Connection,
        response: Response,
        choice: Choice,
        ticket: Ticket,
        send: Send,
    ) -> str:
        """Relay an answer; returns why it could not be finished, or nothing."""
        own = [(headers.REQUEST_ID, self.request_id)]
        if self.relay.settings.debug_headers:
            own += [(headers.WORKER, choice.id), (headers.ROUTE_REASON, choice.reason)]
        head = {
            "type": "http.response.start",
            "status": response.status,
            "headers": client_headers(response.headers, own),
        }
        await send(head)
        answered = False
        try:
            async for chunk in connection.body():
                if not answered:
                    answered = True
                    self.relay.router.answered(ticket)
                    self.metrics.first_byte(self.relay.clock())
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except UpstreamError as error:
            if response.header(b"content-type").startswith(b"text/event-stream"):
                await send({"type": "http.response.body", "body": _lost_event(), "more_body": True})
            return str(error)  # the response stays unfinished: the server closes uncleanly
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return ""


async def _sent(connection: Connection, data: bytes) -> tuple[Connection, Response]:
    try:
        return connection, await connection.send(data)
    except BaseException:
        connection.abort()
        raise


def _lost_event() -> bytes:
    error = ApiError(
        ErrorCode.UPSTREAM_FAILED,
        "The worker was lost while it answered; the answer is incomplete.",
    )
    # An event may have been cut: a blank line ends it, so that the error stands on its own.
    return b"\n\ndata: " + orjson.dumps(error.body()) + b"\n\n"


async def _disconnected(receive: Receive) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    except ClientDisconnect:
        pass
