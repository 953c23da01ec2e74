"""What all requests of a gateway share, and the way in: a request is bounded, understood, admitted.

`exchange` carries an admitted request to a worker and its answer back.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from penstock_contract import headers
from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.first_token import backlog
from penstock_contract.fleet import FleetModel, FleetWorker, GatewayWorkers, WorkerLoad
from penstock_contract.metrics import Outcome
from penstock_contract.on_behalf import Seals, Towards
from penstock_contract.tasks import refuse_other_task
from penstock_contract.worker_token import WorkerTokens
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.context import AdmittedRequest, RelayContext
from penstock_gateway.relay.decisions import Decisions
from penstock_gateway.relay.exchange import Exchange
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.gate import Gates, Permit, Room, room_for_all
from penstock_gateway.relay.health import ask
from penstock_gateway.relay.leases import Leases
from penstock_gateway.relay.request import (
    ParsedRequest,
    check_content_type,
    fingerprint,
    parse,
    with_field,
)
from penstock_gateway.relay.watchdog import Watchdog
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.retry_budget import SAVINGS, RetryBudget
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.worker_load import BYTES_PER_TOKEN
from penstock_gateway.tenants.tenancy import Tenancy, UnknownKey, sent_key
from penstock_gateway.tenants.tenant_request import TenantRequest, model_not_found

NO_WORKER_RETRY_AFTER = 2.0
"""Seconds; about what a restarted worker needs to be ready."""

_ON_BEHALF: Final = headers.ON_BEHALF.encode()


@dataclass(frozen=True)
class RelaySettings:
    """What an operator of the gateway may choose."""

    max_body: int
    """Bytes; larger bodies are refused."""
    debug_headers: bool = False
    """Tell clients which worker answered, and why it was chosen."""
    tokens: WorkerTokens = field(default_factory=WorkerTokens)
    """Shown to workers."""
    processes: int = 1
    """That share the limits of one gateway."""
    seals: Seals = field(default_factory=Seals)
    """By which the batch service is known; none: there is none."""


@dataclass
class Relay:
    """All that the requests of a gateway share."""

    settings: RelaySettings
    metrics: GatewayMetrics
    router: Router
    pool: ConnectionPool
    directory: Callable[[], Directory]
    """Returns the present fleet."""
    tenancy: Tenancy
    """Knows who is calling, and what they may use."""
    clock: Callable[[], float] = field(default=time.monotonic)
    quarantine: Quarantine = field(default_factory=Quarantine)
    decisions: Decisions = field(default_factory=Decisions)
    room: Room = room_for_all
    stopping: bool = False

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.clock, self._is_well, self.router.streamed)
        self._budget = RetryBudget(SAVINGS / self.settings.processes)
        self._changed = asyncio.Event()
        self.gates = Gates(
            self._capacity,
            self.clock,
            self.room,
            self.settings.processes,
            self._wants_prompt,
            self._prompt_seconds,
        )
        self._context = RelayContext(
            self.router,
            self.pool,
            self.clock,
            self.watchdog,
            self._budget,
            self.quarantine,
            lambda: self.stopping,
            lambda: self._changed,
            self.decisions,
            Leases(self.pool, self.settings.tokens.headers()),
            self.settings.debug_headers,
            self.settings.tokens.headers(),
        )

    def give_up(self) -> None:
        """End every request under way; their clients see an error."""
        self.stopping = True
        self.gates.close()
        self._changed.set()
        self.watchdog.abort_all("the gateway is stopping")

    def workers(self) -> GatewayWorkers:
        """Return what this gateway has on each worker that it knows."""
        found: dict[str, WorkerLoad] = {}
        for worker in self.directory().fleet.workers:
            tally = self.router.tally(worker.id)
            found[worker.id] = WorkerLoad(
                state=worker.state,
                in_flight=tally.in_flight,
                outstanding_tokens=tally.outstanding_tokens,
                requests=tally.requests,
                failures=tally.failures,
            )
        return GatewayWorkers(workers=found)

    async def handle(self, call: Call) -> None:
        """Serve one request whose body names a model.

        Raises:
            ApiError: it was refused, or no worker began to answer; nothing was sent yet.
        """
        try:
            tenant_request = self._request(call)
        except ApiError as error:
            self.metrics.refused(error.code)
            raise
        try:
            await self._admit(tenant_request, call)
        finally:
            tenant_request.finish()

    def _request(self, call: Call) -> TenantRequest:
        """Return the request of a client, or of the batch service for one of its tenants.

        Raises:
            ApiError: nobody is known by what the call shows.
        """
        seals = self.settings.seals
        ticket = call.header(_ON_BEHALF) if seals.values else ""
        if not ticket:
            return self.tenancy.request(_key(call))
        tenant = seals.open(Towards.GATEWAY, ticket, time.time())
        if tenant is None:
            raise UnknownKey("The ticket is not the batch service's, or is too old.")
        return self.tenancy.request_for(tenant)

    async def _admit(self, tenant_request: TenantRequest, call: Call) -> None:
        arrived = self.clock()
        try:
            tenant_request.begin()
            body = await self._body(call)
            parsed = parse(body)
            body = self._harmless(body, parsed)
            model = self._model(parsed.model)
            tokens = int(parsed.size / BYTES_PER_TOKEN)
            found = tenant_request.authorize(
                parsed.model, model, parsed.tier, tokens, parsed.most_tokens
            )
            if model.task is not Task.AUTO:
                refuse_other_task(parsed.model, model.task, call.path)
            size, spare = parsed.size, tenant_request.spare
            permit = self.gates.offer(model, found, size, spare=spare)
        except ApiError as error:
            self.metrics.refused(error.code, tenant_request.tenant.id)
            raise
        self._budget.earn()
        metrics = self.metrics.request(model.name, size, arrived, spare=spare)
        admitted = AdmittedRequest(call, body, parsed, model, metrics, tenant_request)
        outcome = Outcome.ERROR
        try:
            outcome = await self._serve(admitted, permit)
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            permit.release()
            metrics.ended(outcome, self.clock())
            self.metrics.used(tenant_request.tenant.id, tenant_request.tokens)

    def _harmless(self, body: bytes, parsed: ParsedRequest) -> bytes:
        """Return a body without what only the gateway may say.

        Raises:
            ApiError: workers have died of it.
        """
        for name in parsed.reserved:
            body = with_field(body, name, b"null")
        if self.quarantine and self.quarantine.holds(fingerprint(body), self.clock()):
            message = "Workers died of this request; it is not tried again for ten minutes."
            raise ApiError(ErrorCode.QUARANTINED, message)
        return body

    def fleet_changed(self) -> None:
        """There may be room where there was none."""
        self._changed.set()
        self._changed = asyncio.Event()
        self.watchdog.keep_only(worker.id for worker in self.directory().fleet.workers)
        for model in self.directory().fleet.models:
            self.gates.advance(model)

    async def _serve(self, admitted: AdmittedRequest, permit: Permit) -> Outcome:
        """Wait for a worker with room, then give it the request."""
        await permit.granted()
        admitted.metrics.let_through(self.clock())
        model = admitted.model
        if not self._workers(model):
            raise _nobody(model.name)
        exchange = Exchange(
            self._context,
            admitted,
            lambda: self._workers(model),
            lambda: self.directory().for_prompts(model),
        )
        return await exchange.run()

    async def _body(self, call: Call) -> bytes:
        limit = self.settings.max_body
        check_content_type(call.header(b"content-type").encode())
        if call.header(b"content-encoding") not in ("", "identity"):
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body uncompressed")
        if int(call.header(b"content-length") or 0) > limit:
            message = f"the body has more than {limit} bytes"
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, message)
        return await call.read(limit)

    def _model(self, name: str) -> FleetModel:
        directory = self.directory()
        model = directory.model(name)
        if model is not None and (model.queue is not None or directory.ready(model)):
            return model
        if model is None and directory.known:
            raise model_not_found(name)
        raise _nobody(name)

    def _workers(self, model: FleetModel) -> list[FleetWorker]:
        return self.directory().for_whole_requests(model)

    async def _is_well(self, worker: str, within: float) -> bool:
        found = self.directory().worker(worker)
        try:
            return found is not None and (await ask(self.pool, found.url, within)).well
        except StarvedError:  # nobody can tell now, and its streams may be all right
            return True

    def _capacity(self, model: FleetModel) -> int:
        workers = len(self._workers(model))
        # A fleet that says nothing of queues lets everything through.
        return workers * model.queue.per_worker if model.queue else sys.maxsize

    def _wants_prompt(self, model: FleetModel) -> bool:
        if model.ttft is None:
            return True
        workers = self.directory().ready(model)
        return self.router.wants_prompt(workers, backlog(model.ttft), self.clock())

    def _prompt_seconds(self, model: FleetModel, size: int) -> float:
        return self.router.prompt_seconds(self.directory().ready(model), size)


def _key(call: Call) -> str:
    """Return the API key that a request brings, or nothing."""
    return sent_key(call.header(b"authorization") or None, call.header(b"x-api-key") or None)


def _nobody(name: str) -> ApiError:
    return ApiError(
        ErrorCode.NO_CAPACITY,
        f"No worker of {name!r} is ready; try again soon.",
        retry_after=NO_WORKER_RETRY_AFTER,
    )
