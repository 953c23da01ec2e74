"""`penstock-worker`: settings in, a serving process out."""

import argparse
import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from penstock_contract.flags import duration_flag, quantity_flag
from penstock_contract.headers import REQUEST_ID_PATTERN
from penstock_worker.engine_config import EngineConfig, KVEventsConfig
from penstock_worker.grammar import Grammars
from penstock_worker.model.config import UnsupportedModel, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.server.app import create_app
from penstock_worker.server.engine_client import EngineClient, EngineDied
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.prepare import Served
from penstock_worker.server.probe import generate_one_token
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
    options = _parser().parse_args()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    folder = Path(options.model)
    try:
        shape = read_config(folder)
        weight_files(folder)
        tokenizer, template = Tokenizer(folder), ChatTemplate(folder)
        listener = _listen(options.host, options.port)
    except (UnsupportedModel, TokenizerError, ChatTemplateError) as error:
        sys.exit(_complaint(f"--model {folder}: {error}"))
    except OSError as error:
        address = f"{options.host}:{options.port}"
        sys.exit(_complaint(f"--port: cannot listen on {address}: {error.strerror}"))
    names = tuple(options.served_model_name or [folder.resolve().name])

    def served(max_model_len: int) -> Served:
        return Served(
            names,
            tokenizer,
            template,
            shape.eos_token_ids,
            max_model_len,
            shape.vocab_size,
            Grammars(folder, shape.vocab_size, shape.eos_token_ids),
        )

    runner = _Runner(options, names, listener, began)
    sys.exit(uvloop.run(runner.run(served)))


class _Runner:
    """Ties the engine, the HTTP server and signals together."""

    def __init__(
        self,
        options: argparse.Namespace,
        names: tuple[str, ...],
        listener: socket.socket,
        began: float,
    ) -> None:
        self._options = options
        self._names = names
        self._listener = listener
        self._began = began
        self._failed = False

    async def run(self, served: Callable[[int], Served]) -> int:
        """Serve until drained or until the engine dies; return the exit status."""
        registry = CollectorRegistry()
        metrics = WorkerMetrics(registry, self._names[0])
        client = EngineClient(_engine_config(self._options), metrics.batch)
        service = Service(self._names, client, metrics)
        server = _Server(service, registry, self._options)
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
            await generate_one_token(service.client, model)
        except EngineDied as error:
            service.client.failure = service.client.failure or str(error)
            self._failed = True
            server.should_exit = True
            return
        now = time.monotonic()
        service.epoch, service.served = ready.epoch, model
        service.metrics.loaded(ready, now - self._began)
        log.info(
            "ready after %.1f s, of which the first token took %.3f s: "
            "%d KV blocks of %d tokens, context %d",
            now - self._began,
            now - loaded,
            ready.num_blocks,
            ready.block_size,
            ready.max_model_len,
        )
        await service.client.died.wait()
        server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn, but the first signal drains instead of closing the door."""

    def __init__(
        self, service: Service, registry: CollectorRegistry, options: argparse.Namespace
    ) -> None:
        config = uvicorn.Config(
            create_app(service, registry),
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


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _engine_config(options: argparse.Namespace) -> EngineConfig:
    return EngineConfig(
        model=str(Path(options.model).resolve()),
        dtype=options.dtype,
        quantization=options.quantization,
        kernels=options.kernels,
        max_model_len=options.max_model_len,
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        prefix_caching=options.enable_prefix_caching,
        kv_cache_bytes=options.kv_cache_memory,
        threads=options.threads,
        kv_events=_kv_events(options),
        self_benchmark=options.self_benchmark,
    )


def _kv_events(options: argparse.Namespace) -> KVEventsConfig | None:
    if options.kv_events is None:
        return None
    return KVEventsConfig(
        endpoint=options.kv_events,
        replay_endpoint=options.kv_events_replay or "",
        encoding=options.kv_events_encoding,
        worker=options.worker_id,
        model=(options.served_model_name or [Path(options.model).resolve().name])[0],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock-worker", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="folder of a checkpoint in Hugging Face layout")
    add(
        "--served-model-name",
        action="append",
        help="name that clients use; repeat it for aliases (default: the folder's name)",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    add(
        "--quantization",
        choices=["none", "int8", "int4"],
        default="none",
        help="of the weights, made while they are loaded: int8 is W8A8, int4 is weight-only",
    )
    add(
        "--kernels",
        choices=["auto", "native", "torch"],
        default="auto",
        help="auto: native where they were compiled (python -m penstock_worker.native.build)",
    )
    add("--max-model-len", type=_positive, help="prompt + output (default: the model's limit)")
    add("--block-size", type=_positive, default=16, help="tokens per KV block")
    add("--max-num-seqs", type=_positive, default=256, help="sequences that run at once")
    add("--max-num-batched-tokens", type=_positive, default=8192, help="token budget of a step")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add("--kv-cache-memory", type=quantity_flag, help="like 512Mi (default: at most 1Gi)")
    add("--threads", type=_positive, help="compute threads (default: OMP_NUM_THREADS or cores)")
    add(
        "--worker-id",
        type=_worker_id,
        default=socket.gethostname(),
        help="unique over time, such as the pod's uid (default: the host's name)",
    )
    add("--kv-events", metavar="ENDPOINT", help="publish KV events, like tcp://0.0.0.0:5557")
    add("--kv-events-replay", metavar="ENDPOINT", help="answer replays, like tcp://0.0.0.0:5558")
    add(
        "--kv-events-encoding",
        choices=["maps", "arrays"],
        default="maps",
        help="maps as vLLM writes them, arrays as older vLLM, SGLang and llm-d do",
    )
    add(
        "--self-benchmark",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure at start, within half a second, what a step costs",
    )
    add("--drain-timeout", type=duration_flag, default=120.0, help="like 120s")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser


def _worker_id(text: str) -> str:
    if not REQUEST_ID_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError("use letters, digits and . _ - only")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _complaint(problem: str) -> int:
    """Say what is wrong on standard error; 2 is the status for wrong usage."""
    sys.stderr.write(f"penstock-worker: {problem}\n")
    return 2
