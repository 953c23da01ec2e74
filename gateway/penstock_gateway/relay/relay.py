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
from penstock_contract.errors import ApiError
from penstock_contract.fleet import FleetModel, FleetWorker, GatewayWorkers
from penstock_contract.metrics import Outcome
from penstock_contract.on_behalf import Ticket
from penstock_contract.tasks import refuse_other_task
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.context import AdmittedRequest, RelayContext
from penstock_gateway.relay.decisions import Decisions
from penstock_gateway.relay.exchange import Exchange
from penstock_gateway.relay.exhaustion import StarvedError
from penstock_gateway.relay.gate import Gates, Room, room_for_all
from penstock_gateway.relay.health import ask
from penstock_gateway.relay.hold import Asked, Hold
from penstock_gateway.relay.intake import harmless, key_of, read_body
from penstock_gateway.relay.leases import Leases
from penstock_gateway.relay.no_worker import nobody_ready, not_loaded
from penstock_gateway.relay.permit import Permit
from penstock_gateway.relay.prefill import PATHS
from penstock_gateway.relay.prompt import prompt_of
from penstock_gateway.relay.request import parse
from penstock_gateway.relay.settings import RelaySettings
from penstock_gateway.relay.spare_places import SparePlaces
from penstock_gateway.relay.tickets import ticket_of
from penstock_gateway.relay.watchdog import Watchdog
from penstock_gateway.routing.loads import loads_of
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.retry_budget import SAVINGS, RetryBudget
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.worker_load import BYTES_PER_TOKEN
from penstock_gateway.tenants.tenancy import Tenancy
from penstock_gateway.tenants.tenant_request import TenantRequest, model_not_found

_BATCH_IN_FLIGHT: Final = headers.BATCH_IN_FLIGHT.encode()


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
        self._spare = SparePlaces(self.router, self.clock, self.settings.processes)
        self._changed = asyncio.Event()
        self.hold = Hold(self.router, self.directory, self.clock)
        self.gates = Gates(
            self.capacity, self.clock, self.room, self.settings.processes,
            self.hold.wants_prompt, self.hold.prompt_seconds,
        )  # fmt: skip
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

    def loads(self) -> GatewayWorkers:
        """Return what this gateway has on each worker that it knows."""
        return loads_of(self.directory().fleet, self.router)

    async def handle(self, call: Call) -> None:
        """Serve one request whose body names a model.

        Raises:
            ApiError: it was refused, or no worker began to answer; nothing was sent yet.
        """
        try:
            ticket = ticket_of(call, self.settings.seals)
            tenant_request = self._request(call, ticket)
        except ApiError as error:
            self.metrics.refused(error.code)
            raise
        try:
            await self._admit(tenant_request, call, ticket)
        finally:
            tenant_request.finish()

    def _request(self, call: Call, ticket: Ticket | None) -> TenantRequest:
        """Return the request of a client, or of the batch service for one of its tenants.

        Raises:
            ApiError: nobody is known by what the call shows.
        """
        if ticket is None:
            return self.tenancy.request(key_of(call))
        return self.tenancy.request_for(ticket.tenant)

    async def _admit(
        self, tenant_request: TenantRequest, call: Call, ticket: Ticket | None
    ) -> None:
        arrived = self.clock()
        try:
            tenant_request.begin()
            body = await read_body(call, self.settings.max_body, ticket)
            parsed = parse(call.path, call.header(b"content-type"), body)
            body = harmless(body, parsed, self.quarantine, self.clock())
            model = self._model(parsed.model)
            tokens = int(parsed.size / BYTES_PER_TOKEN)
            found = tenant_request.authorize(
                parsed.model, model, parsed.tier, tokens, parsed.most_tokens
            )
            if model.task is not Task.AUTO:
                refuse_other_task(parsed.model, model.task, call.path)
            prompt = prompt_of(call, parsed, model, tenant_request.tenant)
            splits = parsed.splits and call.path in PATHS
            destination = self.hold.destination(model, prompt, parsed.prompt or body, splits=splits)
            asked = Asked(parsed.size, len(body), destination)
            of_batch = tenant_request.spare
            spare = self._spare_places(call, model, parsed.model) if of_batch else None
            permit = self.gates.offer(model, found, asked, spare=spare)
        except ApiError as error:
            tenant_request.refused(error.code)
            self.metrics.refused(error.code, tenant_request.tenant.id)
            raise
        self._budget.earn()
        metrics = self.metrics.request(model.name, parsed.size, arrived, spare=of_batch)
        admitted = AdmittedRequest(call, body, parsed, prompt, model, metrics, tenant_request)
        outcome = Outcome.ERROR
        if of_batch:
            self._spare.began(parsed.model)
        try:
            outcome = await self._serve(admitted, permit)
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            if of_batch:
                self._spare.ended(parsed.model)
            permit.release()
            metrics.ended(outcome, self.clock())
            self.metrics.used(tenant_request.tenant.id, tenant_request.tokens)

    def fleet_changed(self) -> None:
        """There may be room where there was none."""
        self._changed.set()
        self._changed = asyncio.Event()
        self.watchdog.keep_only(worker.id for worker in self.directory().fleet.workers)
        for model in self.directory().fleet.models:
            self.gates.advance(model)

    async def _serve(self, admitted: AdmittedRequest, permit: Permit) -> Outcome:
        """Wait for a worker with room, then give it the request."""
        began = self.clock()
        await permit.granted()
        now, model = self.clock(), admitted.model
        admitted.metrics.let_through(now)
        if permit.waits_for:
            admitted.waited = f"waited={now - began:.3f}s for={permit.waits_for}"
        name = admitted.parsed.model
        adapter = name if name in model.adapters else ""
        if not self._workers(model, adapter):
            raise not_loaded(name) if self._workers(model) else nobody_ready(model.name)
        exchange = Exchange(
            self._context,
            admitted,
            lambda: self._workers(model, adapter),
            lambda: self.directory().for_prompts(model, adapter),
        )
        return await exchange.run()

    def _model(self, name: str) -> FleetModel:
        directory = self.directory()
        model = directory.model(name)
        if model is not None and (model.queue is not None or directory.ready(model)):
            # It is not waited for: whoever serves the model may have failed to load it.
            whole = name in model.adapters and directory.for_whole_requests(model)
            if whole and not directory.for_whole_requests(model, name):
                raise not_loaded(name)
            return model
        if model is None and directory.known:
            raise model_not_found(name)
        raise nobody_ready(name)

    def _workers(self, model: FleetModel, adapter: str = "") -> list[FleetWorker]:
        return self.directory().for_whole_requests(model, adapter)

    async def _is_well(self, worker: str, within: float) -> bool:
        found = self.directory().worker(worker)
        try:
            return found is not None and (await ask(self.pool, found.url, within)).well
        except StarvedError:  # nobody can tell now, and its streams may be all right
            return True

    def _spare_places(self, call: Call, model: FleetModel, name: str) -> int:
        told = call.header(_BATCH_IN_FLIGHT)
        return self._spare.of(model, self._workers(model), self.capacity(model), name, told)

    def capacity(self, model: FleetModel) -> int:
        """Return how many requests the ready workers of a model can run at once."""
        workers = len(self._workers(model))
        # A fleet that says nothing of queues lets everything through.
        return workers * model.queue.per_worker if model.queue else sys.maxsize
