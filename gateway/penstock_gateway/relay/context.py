"""What the attempts of a request share: parts of the gateway, the request, how far it has come."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from penstock_contract.fleet import FleetModel
from penstock_contract.metrics import Fault
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.decisions import Decisions
from penstock_gateway.relay.leases import Handoff, Leases
from penstock_gateway.relay.request import ParsedRequest, fingerprint
from penstock_gateway.relay.resumable_stream import ResumableStream
from penstock_gateway.relay.watchdog import Watchdog
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.retry_budget import RetryBudget
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.tenants.tenant_request import TenantRequest


@dataclass(frozen=True)
class RelayContext:
    """What an exchange needs of its gateway; one per process."""

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


class AdmittedRequest:
    """A request that is to be served."""

    def __init__(
        self,
        call: Call,
        body: bytes,
        parsed: ParsedRequest,
        prompt: Prompt,
        model: FleetModel,
        metrics: RequestMetrics,
        tenant_request: TenantRequest,
    ) -> None:
        self.call = call
        self.body = body
        self.parsed = parsed
        self.prompt = prompt
        self.model = model
        self.metrics = metrics
        self.tenant_request = tenant_request
        self.waited = ""
        """How long it had to wait, and for whom, for people; empty: it had not."""

    @property
    def fingerprint(self) -> int:
        """What tells it from other requests."""
        return fingerprint(self.body)


class RequestProgress:
    """How far a request has come, over all workers that it was given to.

    Args:
        id: of the request.
        stream: what it will have shown.
    """

    def __init__(self, id: str, stream: ResumableStream) -> None:  # noqa: A002 - as in logs
        self.id = id
        self.handoff: Handoff | None = None
        """The prompt's KV, if a prefill worker keeps it."""
        self.stream = stream
        self.number = 0
        """Of the present attempt, from 1."""
        self.broken_at = 0.0
        """When the attempt before ended."""
        self.fault = Fault.LOST
        """How it did."""
