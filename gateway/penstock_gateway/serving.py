"""One process that serves: everything is put together here, run, and brought to its end."""

import argparse
import asyncio
import gc
import logging
import math
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import CollectorRegistry

from penstock_contract.fleet import Fleet
from penstock_contract.worker_token import WorkerTokens
from penstock_gateway import traces
from penstock_gateway.admission.processes import per_process
from penstock_gateway.app import RELAYED, create_app
from penstock_gateway.build import is_compiled
from penstock_gateway.client_timeouts import sweep
from penstock_gateway.completions import completions
from penstock_gateway.delegate import Delegate
from penstock_gateway.fleet.directory import Present
from penstock_gateway.fleet.source import FleetFile, FleetSource
from penstock_gateway.instruments import Number
from penstock_gateway.introspection import ProcessIntrospection
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.protocol import ClientProtocol
from penstock_gateway.relay.bodies import Bodies
from penstock_gateway.relay.call import Serve
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.decisions import Decisions
from penstock_gateway.relay.gate import room_for_all
from penstock_gateway.relay.prober import Prober
from penstock_gateway.relay.profiler import Profiler
from penstock_gateway.relay.relay import Relay
from penstock_gateway.relay.settings import RelaySettings
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.router import Router
from penstock_gateway.tenants.registry import TenantRegistry
from penstock_gateway.tenants.source import NoTenants, TenantFile, TenantSource
from penstock_gateway.tenants.tenancy import Tenancy

if TYPE_CHECKING:
    from penstock_gateway.batch_service import BatchService
    from penstock_gateway.siblings.member import Member

log = logging.getLogger("penstock.gateway")


async def serve(
    options: argparse.Namespace,
    listener: socket.socket,
    tokens: WorkerTokens,
    member: "Member | None" = None,
) -> int:
    """Serve until told to stop; return the exit status.

    Args:
        options: of the command line.
        listener: not listening yet.
        tokens: shown to workers.
        member: what this process is, if it is one of several.
    """
    registry = CollectorRegistry()
    tracing = traces.Tracing() if traces.wanted() else None
    metrics = traces.TracedMetrics(registry) if tracing else GatewayMetrics(registry)
    processes = member.process.total if member else 1
    gateway = Gateway(
        *_sources(options, metrics),
        metrics,
        member.router if member else Router(PrefixIndex()),
        member.tenancy if member else Tenancy(time.monotonic, keys_required=options.require_keys),
    )
    relay = Relay(
        RelaySettings(options.max_body, options.debug_headers, tokens, processes, options.seals),
        metrics,
        gateway.router,
        gateway.pool,
        gateway.present.directory,
        gateway.tenancy,
        quarantine=member.quarantine if member else Quarantine(),
        decisions=traces.TracedDecisions() if tracing else Decisions(),
        room=member.capacity.room if member else room_for_all,
    )
    introspection = member.begin(relay) if member else ProcessIntrospection(relay, registry)
    answer = tracing.serve(completions(relay)) if tracing else completions(relay)
    gateway.on_change(relay.fleet_changed)
    config = uvicorn.Config(
        create_app(relay, introspection, _batch_service(options)),
        http=_protocol(answer, options, metrics.bodies, processes),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=math.ceil(options.drain_timeout) + 2,
    )
    # uvicorn would log each stream that is left unfinished on purpose; the relay says it better.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    form = "compiled" if is_compiled() else "not compiled"
    log.info("listening on http://%s:%d (%s)", *listener.getsockname()[:2], form)
    # What is there now stays, and requests leave no cycles: collecting garbage often gains nothing.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    server = _Server(config, relay, options.drain_timeout)
    watching = asyncio.create_task(_watch(gateway, relay, member, server.stop))
    # A gateway that has gone blind must not look well: it ends, and is started again.
    watching.add_done_callback(lambda _: server.stop())
    connections: Any = server.server_state.connections
    sweeping = asyncio.create_task(sweep(lambda: connections))
    await server.serve(sockets=[listener])
    sweeping.cancel()
    watching.cancel()
    if member:
        member.end()
    if tracing:
        await asyncio.to_thread(tracing.close)
    (fault,) = await asyncio.gather(watching, return_exceptions=True)
    if isinstance(fault, Exception):
        log.error("following the fleet failed", exc_info=fault)
        return 1
    return 0


async def _watch(
    gateway: "Gateway", relay: Relay, member: "Member | None", stop: Callable[[], None]
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(gateway.watch(relay))
        if member:
            group.create_task(member.run(orphaned=stop))


def _batch_service(options: argparse.Namespace) -> "BatchService | None":
    if options.batches is None:
        return None
    from penstock_gateway.batch_service import BatchService

    return BatchService(options.batches, options.seals)


def _sources(
    options: argparse.Namespace, metrics: GatewayMetrics
) -> tuple[FleetSource, TenantSource]:
    tenants = NoTenants() if options.tenants is None else TenantFile(options.tenants)
    if options.fleet is not None:
        if options.tenant_namespace is not None:
            sys.exit("penstock-gateway: --tenant-namespace: with --fleet, give --tenants FILE")
        return FleetFile(options.fleet), tenants
    # 25 MB that a gateway without a cluster can do without.
    from kubernetes.config import ConfigException

    from penstock_gateway.fleet.api_server import ApiServer, configuration
    from penstock_gateway.fleet.cluster import ClusterFleet
    from penstock_gateway.tenants.cluster import ClusterTenants

    try:
        api = ApiServer(configuration())
    except ConfigException as error:
        sys.exit(f"penstock-gateway: --kubernetes: no cluster: {error}")
    fleet = ClusterFleet(api, options.namespace, metrics.fleet_health)
    if options.tenant_namespace is not None:
        where, secrets = options.tenant_namespace, options.tenant_secrets
        return fleet, ClusterTenants(api, where, secrets=secrets)
    return fleet, tenants


class Gateway:
    """The present fleet and its tenants, and everything that follows their changes."""

    def __init__(
        self,
        source: FleetSource,
        tenants: TenantSource,
        metrics: GatewayMetrics,
        router: Router,
        tenancy: Tenancy,
    ) -> None:
        self.metrics = metrics
        self.router = router
        self.tenancy = tenancy
        self.pool = ConnectionPool()
        self.present = Present()
        self._source = source
        self._tenants = tenants
        self._changed: Callable[[], None] = lambda: None

    def on_change(self, changed: Callable[[], None]) -> None:
        """Say whom to call after every change of the fleet."""
        self._changed = changed

    async def watch(self, relay: Relay) -> None:
        """Follow the fleet, and look after its broken workers, until cancelled."""
        prober = Prober(
            self.router,
            self.pool,
            relay.quarantine,
            self.present.directory,
            relay.watchdog.paces,
            self.metrics.ejected,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(prober.run())
            group.create_task(Profiler(self.router, self.pool, self.present.directory).run())
            group.create_task(relay.watchdog.run())
            group.create_task(self._source.run(self.change))
            group.create_task(self._tenants.run(self._tenants_changed))

    def _tenants_changed(self, registry: TenantRegistry) -> None:
        self.tenancy.change(registry)
        self.metrics.tenants(len(registry.tenants))

    def change(self, fleet: Fleet) -> None:
        """Take over a new snapshot; requests under way keep the worker that they have."""
        self.present.change(fleet)
        self.router.keep_only(worker.id for worker in fleet.workers)
        self.pool.keep_only({worker.url for worker in fleet.workers})
        self.metrics.fleet(fleet)
        self._changed()
        log.info("fleet %d: %d workers", fleet.generation, len(fleet.workers))


def _protocol(serve: Serve, options: argparse.Namespace, held: Number, processes: int) -> Any:
    """Return what uvicorn makes its connections of."""
    paths = frozenset(path.encode() for path in RELAYED)
    bodies = Bodies(options.max_bodies // processes, held)
    most = per_process(options.max_connections, processes)

    def connection(*, server_state: Any, _loop: Any, **uvicorn: Any) -> ClientProtocol:
        delegate = partial(Delegate, server_state=server_state, _loop=_loop, **uvicorn)
        loop = _loop or asyncio.get_running_loop()
        return ClientProtocol(
            serve=serve,
            paths=paths,
            client_timeout=options.client_timeout,
            most=most,
            bodies=bodies,
            state=server_state,
            loop=loop,
            delegate=delegate,
        )

    return connection


class _Server(uvicorn.Server):
    """uvicorn, which on a signal stops accepting and finishes its streams, but exits with 0."""

    def __init__(self, config: uvicorn.Config, relay: Relay, drain_timeout: float) -> None:
        super().__init__(config)
        self._relay = relay
        self._drain_timeout = drain_timeout
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Stop accepting, and finish the streams."""
        self.should_exit = True
        self._drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave at once on the second."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """What is not done in time ends with an error that its client sees."""
        self._loop.call_later(self._drain_timeout, self._relay.give_up)
