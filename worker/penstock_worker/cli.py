"""`penstock-worker`: settings in, a serving process out."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.grammar import Grammars
from penstock_worker.lora.config import UnsupportedAdapter, read_adapter_config
from penstock_worker.model.config import ModelConfig, UnsupportedModel, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.options import engine_config, parser
from penstock_worker.pooling.shape import PoolingShape, read_shape
from penstock_worker.pooling.task import task_of
from penstock_worker.server.app import create_app
from penstock_worker.server.engine_client import EngineClient, EngineDied
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.probe import prove
from penstock_worker.server.served import Served
from penstock_worker.server.service import Service
from penstock_worker.text.chat_template import ChatTemplate, ChatTemplateError
from penstock_worker.text.tokenizer import Tokenizer, TokenizerError

log = logging.getLogger("penstock.worker")


def main() -> None:
    """Serve a model until told to stop; or, as `penstock-worker fetch …`, download one."""
    if sys.argv[1:2] == ["fetch"]:
        from penstock_worker.fetch.cli import main as fetch  # what it needs, no server waits for

        sys.exit(fetch(sys.argv[2:]))
    began = time.monotonic()
    options = parser().parse_args()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    folder = Path(options.model)
    try:
        tokens = WorkerTokens.of(os.environ)
    except ValueError as error:
        sys.exit(_complaint(str(error)))
    if tokens.values and options.kv_events:
        log.warning("--kv-events: whoever reaches that port may follow, without a token")
    try:
        options.task = task_of(folder, options.task)
        pooling = read_shape(folder, options.task) if options.task.is_pooling else None
        shape: ModelConfig | PoolingShape = pooling or read_config(folder)
        if pooling is not None and (flag := _generating_only(options)):
            raise UnsupportedModel(f"{flag} is for models that generate; this one does not")
        if options.runner == "model":
            weight_files(folder)
        tokenizer, template = Tokenizer(folder), ChatTemplate(folder)
        listener = _listen(options.host, options.port)
    except (UnsupportedModel, TokenizerError, ChatTemplateError) as error:
        sys.exit(_complaint(f"--model {folder}: {error}"))
    except OSError as error:
        address = f"{options.host}:{options.port}"
        sys.exit(_complaint(f"--port: cannot listen on {address}: {error.strerror}"))
    names = tuple(options.served_model_name or [folder.resolve().name])
    adapters = _adapters(options.adapter, names)

    def served(max_model_len: int) -> Served:
        return Served(
            names,
            tokenizer,
            template,
            shape.eos_token_ids,
            max_model_len,
            shape.vocab_size,
            Grammars(folder, shape.vocab_size, shape.eos_token_ids),
            adapters,
            pooling,
        )

    runner = _Runner(options, names, listener, began, tokens)
    sys.exit(uvloop.run(runner.run(served)))


class _Runner:
    """Ties the engine, the HTTP server and signals together."""

    def __init__(
        self,
        options: argparse.Namespace,
        names: tuple[str, ...],
        listener: socket.socket,
        began: float,
        tokens: WorkerTokens,
    ) -> None:
        self._options = options
        self._tokens = tokens
        self._names = names
        self._listener = listener
        self._began = began
        self._failed = False

    async def run(self, served: Callable[[int], Served]) -> int:
        """Serve until drained or until the engine dies; return the exit status."""
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry, self._names[0])
        client = _client(engine_config(self._options), metrics)
        adapters = tuple(client.config.adapters)
        service = Service(self._names, client, metrics, adapters)
        app = create_app(service, registry, self._tokens)
        server = _Server(service, app, self._options)
        await client.start()
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        watching = asyncio.create_task(self._watch(service, server, served))
        await serving
        watching.cancel()
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

    def __init__(self, service: Service, app: FastAPI, options: argparse.Namespace) -> None:
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
        self._timeout: float = options.drain_timeout
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain on the first signal, leave at once on the second."""
        self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, sig: int) -> None:
        if self._draining is None:
            log.info("%s: draining", signal.Signals(sig).name)
            self._draining = asyncio.create_task(self._drain())
        else:
            self.force_exit = self.should_exit = True

    async def _drain(self) -> None:
        if not await self._service.drain(self._timeout):
            log.warning("requests were still running after %.0f s", self._timeout)
            await self._service.hand_back()
        self.should_exit = True


def _adapters(wanted: list[tuple[str, Path]], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the adapters' names, once it is clear that each can be told from all others."""
    found: list[str] = []
    for name, folder in wanted:
        try:
            if name in (*names, *found):
                raise UnsupportedAdapter("the name is taken: choose another")
            read_adapter_config(folder)
        except UnsupportedAdapter as error:
            sys.exit(_complaint(f"--adapter {name}={folder}: {error}"))
        found.append(name)
    return tuple(found)


def _generating_only(options: argparse.Namespace) -> str:
    """Return a flag that was given and means nothing to a model that embeds or scores."""
    for flag, given in (
        ("--adapter", options.adapter),
        ("--kv-events", options.kv_events is not None),
        ("--kv-tier-disk", options.kv_tier_disk is not None),
        ("--kv-transfer", options.kv_transfer is not None),
        ("--speculative", options.speculative != "none"),
        ("--runner sim", options.runner == "sim"),
    ):
        if given:
            return flag
    return ""


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _client(config: EngineConfig, metrics: WorkerMetrics) -> EngineClient:
    if config.simulation is None:
        return EngineClient(config, metrics.batch)
    from penstock_worker.simulation.client import SimulatedEngineClient

    return SimulatedEngineClient(config, metrics.batch)


def _complaint(problem: str) -> int:
    """Say what is wrong on standard error; 2 is the status for wrong usage."""
    sys.stderr.write(f"penstock-worker: {problem}\n")
    return 2
