"""What the attempts of a request have in common, and how a worker is asked."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock_contract.fleet import FleetModel, FleetWorker
from penstock_contract.metrics import Fault
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.decisions import Decisions
from penstock_gateway.relay.exhaustion import EVERY_SECONDS, PATIENCE, StarvedError
from penstock_gateway.relay.leases import Handoff, Leases
from penstock_gateway.relay.record import Record
from penstock_gateway.relay.request import Wanted, fingerprint
from penstock_gateway.relay.upstream import Connection, Response, UpstreamError
from penstock_gateway.relay.watchdog import Watchdog
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.retry_budget import RetryBudget
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.tenants.tenant_request import TenantRequest


@dataclass(frozen=True)
class Shared:
    """What an exchange needs of its gateway."""

    router: Router
    pool: ConnectionPool
    clock: Callable[[], float]
    watchdog: Watchdog
    budget: RetryBudget
    quarantine: Quarantine
    stopping: Callable[[], bool]
    change: Callable[[], asyncio.Event]
    """Returns what the next change of the fleet sets."""
    decisions: Decisions
    leases: Leases
    debug_headers: bool
    token: list[tuple[str, str]]
    """Headers by which workers know their gateway."""


class Admitted:
    """A request that is to be served."""

    def __init__(
        self,
        call: Call,
        body: bytes,
        wanted: Wanted,
        model: FleetModel,
        metrics: RequestMetrics,
        tenant_request: TenantRequest,
    ) -> None:
        self.call = call
        self.body = body
        self.wanted = wanted
        self.model = model
        self.metrics = metrics
        self.tenant_request = tenant_request

    @property
    def fingerprint(self) -> int:
        """What tells it from other requests."""
        return fingerprint(self.body)


class Journey:
    """How far a request has come, over all workers that it was given to.

    Args:
        id: of the request.
        prompt: what routing knows of it.
    """

    def __init__(self, id: str, prompt: Prompt) -> None:  # noqa: A002 - as in logs and headers
        self.id = id
        self.prompt = prompt
        self.handoff: Handoff | None = None
        """The prompt's KV, if a prefill worker keeps it."""
        self.record = Record()
        self.number = 0
        """Of the present attempt, from 1."""
        self.broken_at = 0.0
        """When the attempt before ended."""
        self.fault = Fault.LOST
        """How it did."""


async def ask(
    shared: Shared, metrics: RequestMetrics, worker: FleetWorker, data: bytes
) -> tuple[Connection, Response]:
    """Send a request to a worker, and wait for the head of its answer.

    A kept connection that turns out to be dead is replaced by a new one: that is a retry, too.

    Raises:
        UpstreamError: there is no answer.
        StarvedError: the gateway cannot ask anybody.
    """
    kept = shared.pool.idle(worker.url)
    if kept is None:
        fresh = await _connect(shared, metrics, worker.url)
        return await _ask(shared.watchdog, worker, fresh, data)
    try:
        return await _ask(shared.watchdog, worker, kept, data)
    except UpstreamError as error:
        if error.fault is not Fault.LOST:
            raise
        metrics.retried()
        try:
            fresh = await _connect(shared, metrics, worker.url)
        except UpstreamError:
            raise error from None  # it was there a moment ago: the request may have killed it
    return await _ask(shared.watchdog, worker, fresh, data)


async def _connect(shared: Shared, metrics: RequestMetrics, url: str) -> Connection:
    """Return a new connection, after waiting while the gateway is out of what it takes."""
    until = 0.0
    while True:
        try:
            return await shared.pool.connect(url)
        except StarvedError:
            now = shared.clock()
            if not until:
                until = now + PATIENCE
                metrics.starved()
            if now >= until or shared.stopping():
                raise
        await asyncio.sleep(EVERY_SECONDS)


async def _ask(
    watchdog: Watchdog, worker: FleetWorker, connection: Connection, data: bytes
) -> tuple[Connection, Response]:
    watchdog.begin(worker.id, connection)
    try:
        return connection, await connection.send(data)
    except BaseException:
        connection.abort()
        watchdog.end(worker.id, connection)
        raise
