"""The serving process: everything is put together here, run, and brought to its end."""

import argparse
import asyncio
import logging
import socket
import sys
from types import FrameType
from typing import Any, Final

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from penstock_contract.worker_token import WorkerTokens
from penstock_gateway.endpoint_picker import certificates, protocol
from penstock_gateway.endpoint_picker.app import create_app
from penstock_gateway.endpoint_picker.following import Following
from penstock_gateway.endpoint_picker.picker import Picker, PickerSettings
from penstock_gateway.endpoint_picker.processor import handler
from penstock_gateway.fleet.directory import Present
from penstock_gateway.fleet.source import FleetFile, FleetHealth, FleetSource
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.bodies import Bodies
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.router import Router

log = logging.getLogger("penstock.picker")

LIVENESS: Final = "liveness"
READY: Final = ("", "readiness", protocol.SERVICE)
"""Services whose health the protocol names, and the server as a whole."""
_AROUND: Final = 1 << 20
"""Bytes of a message beside a body that comes in one piece."""


async def serve(options: argparse.Namespace, listener: socket.socket, tokens: WorkerTokens) -> int:
    """Serve until told to stop; return the exit status.

    Args:
        options: of the command line.
        listener: for HTTP.
        tokens: shown to workers.
    """
    registry, present = CollectorRegistry(), Present()
    metrics = GatewayMetrics(registry)
    settings = PickerSettings(options.max_body, options.deployment, options.endpoints, tokens)
    picker = Picker(
        settings, metrics, Router(PrefixIndex()), ConnectionPool(), present.directory,
        Bodies(options.max_bodies, metrics.bodies),
    )  # fmt: skip
    following = Following(_source(options, metrics), present, picker)
    stop, hurry = asyncio.Event(), asyncio.Event()
    server, statuses = (
        grpc.aio.server(options=_options(options.max_body)),
        health.aio.HealthServicer(),
    )
    server.add_generic_rpc_handlers((handler(picker),))
    health_pb2_grpc.add_HealthServicer_to_server(statuses, server)
    try:
        port = _listen(server, options)
    except (OSError, RuntimeError) as error:
        log.error("--port, --cert-path: %s", error)
        return 2
    await _tell(statuses, ready=False)
    await server.start()
    http = _Http(uvicorn.Config(create_app(picker, registry), **_QUIET), stop, hurry)
    answering = asyncio.create_task(http.serve(sockets=[listener]))
    watching = asyncio.create_task(following.run())
    # A picker that has gone blind must not look well: it ends, and is started again.
    watching.add_done_callback(lambda _: stop.set())
    telling = asyncio.create_task(_tell_when_known(following, statuses))
    secured = "TLS" if options.secure_serving else "no TLS"
    where = (options.host, port, secured, *listener.getsockname()[:2])
    log.info("picking on %s:%d (%s), telling on http://%s:%d", *where)
    await stop.wait()
    telling.cancel()
    await statuses.enter_graceful_shutdown()
    hurrying = asyncio.create_task(_stop_at_once(server, hurry))
    await server.stop(options.drain_timeout)
    hurrying.cancel()
    watching.cancel()
    http.should_exit = True
    (fault, *_) = await asyncio.gather(watching, answering, telling, return_exceptions=True)
    if isinstance(fault, Exception):
        log.error("following the fleet failed", exc_info=fault)
        return 1
    return 0


def _options(max_body: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_body + _AROUND),
        ("grpc.max_send_message_length", max_body + _AROUND),
    ]


def _listen(server: Any, options: argparse.Namespace) -> int:
    """Return the port that requests come to.

    Raises:
        OSError: there is no certificate.
        RuntimeError: the port is taken.
    """
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.port}"
    if not options.secure_serving:
        return int(server.add_insecure_port(address))
    folder = options.cert_path
    credentials = certificates.given(folder) if folder else certificates.self_made()
    return int(server.add_secure_port(address, credentials))


async def _tell(statuses: Any, *, ready: bool) -> None:
    """Say by the gRPC health protocol that the picker is alive, and whether it can pick."""
    serving = health_pb2.HealthCheckResponse.SERVING
    await statuses.set(LIVENESS, serving)
    for service in READY:
        state = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        await statuses.set(service, state)


async def _stop_at_once(server: Any, hurry: asyncio.Event) -> None:
    """End the streams that are waited for when told to stop once more."""
    await hurry.wait()
    await server.stop(0)


async def _tell_when_known(following: Following, statuses: Any) -> None:
    await following.known.wait()
    await _tell(statuses, ready=True)


def _source(options: argparse.Namespace, metrics: GatewayMetrics) -> FleetSource:
    if options.fleet is not None:
        return FleetFile(options.fleet)
    from kubernetes.config import ConfigException

    from penstock_gateway.fleet.api_server import ApiServer, configuration
    from penstock_gateway.fleet.cluster import ClusterFleet

    def tell(found: FleetHealth) -> None:
        metrics.fleet_health(found)

    try:
        return ClusterFleet(ApiServer(configuration()), options.namespace, tell)
    except ConfigException as error:
        sys.exit(f"penstock-endpoint-picker: --kubernetes: no cluster: {error}")


_QUIET: Final[dict[str, Any]] = {
    "log_config": None, "access_log": False, "lifespan": "off", "timeout_graceful_shutdown": 2,
}  # fmt: skip


class _Http(uvicorn.Server):
    """uvicorn, which hands signals on: it answers until all requests have passed.

    Args:
        config: of the server.
        stop: is set by the first signal.
        hurry: is set by those after it.
    """

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        super().__init__(config)
        self._signals = iter((stop,))
        self._hurry = hurry
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave at once on the second."""
        told = next(self._signals, self._hurry)
        self._loop.call_soon_threadsafe(told.set)
