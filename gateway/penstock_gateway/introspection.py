"""What a gateway tells of itself, whichever of its processes is asked."""

from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest

from penstock_contract.fleet import GatewayWorkers
from penstock_gateway.relay.relay import Relay
from penstock_gateway.relay.waits import tell_held
from penstock_gateway.status.collect import collect
from penstock_gateway.status.snapshot import Status


class Introspection(Protocol):
    """Answers to those who run the gateway."""

    async def metrics(self) -> bytes:
        """Return the metrics, as Prometheus reads them."""

    async def workers(self) -> GatewayWorkers:
        """Return what the gateway has on its workers."""

    async def status(self) -> Status:
        """Return what the status page shows."""


class ProcessIntrospection:
    """The only process of a gateway tells what it knows itself."""

    def __init__(self, relay: Relay, registry: CollectorRegistry) -> None:
        self._relay = relay
        self._registry = registry

    async def metrics(self) -> bytes:
        """See `Introspection.metrics`."""
        tell_held(self._relay)
        return generate_latest(self._registry)

    async def workers(self) -> GatewayWorkers:
        """See `Introspection.workers`."""
        return self._relay.loads()

    async def status(self) -> Status:
        """See `Introspection.status`."""
        return collect(self._relay)
