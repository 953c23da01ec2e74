"""A worker that serves: engine and HTTP server, put together, run, and brought to their end."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.server.app import create_app
from penstock_worker.server.engine_client import EngineClient, EngineDied
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.probe import prove
from penstock_worker.server.served import Served
from penstock_worker.server.service import Service

log = logging.getLogger("penstock.worker")

LEAVING_SECONDS = 2.0
"""For running requests when another node of the group was told to end; its own end may follow."""


class ServingProcess:
    """Ties the engine, the HTTP server and signals together."""

    def __init__(
        self,
        config: EngineConfig,
        names: tuple[str, ...],
        listener: socket.socket,
        tokens: WorkerTokens,
        drain_timeout: float,
        began: float,
    ) -> None:
        """Take what the flags say.

        Args:
            config: of the engine.
            names: of the model, for clients.
            listener: where they connect.
            tokens: that they must show.
            drain_timeout: seconds for running requests, once it is told to end.
            began: when this process did, in monotonic seconds.
        """
        self._config = config
        self._names = names
        self._listener = listener
        self._tokens = tokens
        self._drain_timeout = drain_timeout
        self._began = began
        self._failed = False

    async def run(self, served: Callable[[int], Served]) -> int:
        """Serve until drained or until the engine dies; return the exit status."""
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry, self._names[0])
        client = _client(self._config, metrics)
        adapters = dict(client.config.adapters)
        service = Service(self._names, client, metrics, adapters)
        app = create_app(service, registry, self._tokens)
        server = _Server(service, app, self._drain_timeout)
        await client.start()
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        watching = asyncio.create_task(self._watch(service, server, served))
        leaving = asyncio.create_task(_leave(client, server))
        await serving
        watching.cancel()
        leaving.cancel()
        failed = self._failed or client.died.is_set()
        await client.stop()
        if failed:
            log.error("the engine died: %s", client.failure)
        return 1 if failed else 0

    async def _watch(
        self, service: Service, server: "_Server", served: Callable[[int], Served]
    ) -> None:
        """Open for requests when the engine is ready; close the server when it dies."""
        try:
            ready = await asyncio.shield(service.client.ready)
            model, loaded = served(ready.max_model_len), time.monotonic()
            await prove(service.client, model)
        except EngineDied as error:
            service.client.failure = service.client.failure or str(error)
            self._failed = True
            server.should_exit = True
            return
        now = time.monotonic()
        service.epoch, service.served = ready.epoch, model
        service.metrics.loaded(ready, now - self._began)
        log.info(
            "ready after %.1f s, of which the first %s took %.3f s: on %s, "
            "%d KV blocks of %d tokens (%.1f KiB per token), context %d",
            now - self._began,
            "token" if model.pooling is None else "input",
            now - loaded,
            ready.device,
            ready.num_blocks,
            ready.block_size,
            ready.kv_bytes_per_token / 1024,
            ready.max_model_len,
        )
        await service.client.died.wait()
        server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn, but the first signal drains instead of closing the door."""

    def __init__(self, service: Service, app: FastAPI, drain_timeout: float) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=120,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._service = service
        self._timeout = drain_timeout
        self._loop = asyncio.get_running_loop()
        self._told = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave at once on the second."""
        self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        if self._told:
            self.force_exit = self.should_exit = True
            return
        log.info("%s: draining", signal.Signals(sig).name)
        self._told = True
        self._drain_within(self._timeout)

    def leave(self) -> None:
        """Hand requests back soon, unless this worker was, or is about to be, told to drain."""
        if not self._told:
            self._drain_within(LEAVING_SECONDS)

    def _drain_within(self, seconds: float) -> None:
        if self._draining is not None:
            self._draining.cancel()
        self._draining = asyncio.create_task(self._drain(seconds))

    async def _drain(self, seconds: float) -> None:
        if not await self._service.drain(seconds):
            log.warning("requests were still running after %.0f s", seconds)
            await self._service.hand_back()
        self.should_exit = True


async def _leave(client: EngineClient, server: _Server) -> None:
    """Begin to leave when the engine cannot stay."""
    await client.leaving.wait()
    server.leave()


def _client(config: EngineConfig, metrics: WorkerMetrics) -> EngineClient:
    if config.simulation is None:
        return EngineClient(config, metrics.batch)
    from penstock_worker.simulation.client import SimulatedEngineClient

    return SimulatedEngineClient(config, metrics.batch)
