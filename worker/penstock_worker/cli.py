"""`penstock-worker`: settings in, a serving process out."""

import argparse
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.engine_options import engine_config
from penstock_worker.grammar import Grammars
from penstock_worker.lora.config import UnsupportedAdapter, read_adapter_config
from penstock_worker.model.config import ModelConfig, UnsupportedModel, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.options import parser
from penstock_worker.pooling.shape import PoolingShape, read_shape
from penstock_worker.pooling.task import task_of
from penstock_worker.server.served import Served
from penstock_worker.serving import ServingProcess
from penstock_worker.speculative.fitting import draft_shape
from penstock_worker.speculative.vocabulary import UnsupportedDraft
from penstock_worker.text.chat_template import ChatTemplate, ChatTemplateError
from penstock_worker.text.tokenizer import Tokenizer, TokenizerError

log = logging.getLogger("penstock.worker")


def main() -> None:
    """Serve a model until told to stop; or download one (`penstock-worker fetch …`), or keep an
    engine's adapters as they should be (`penstock-worker adapters …`)."""
    if sys.argv[1:2] == ["fetch"]:
        from penstock_worker.fetch.cli import main as fetch  # what it needs, no server waits for

        sys.exit(fetch(sys.argv[2:]))
    if sys.argv[1:2] == ["adapters"]:
        from penstock_worker.adapters.cli import main as adapters

        sys.exit(adapters(sys.argv[2:]))
    began = time.monotonic()
    options = parser().parse_args()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with _mistakes_told(options):
        tokens = WorkerTokens.of(os.environ)
        if tokens.values and options.kv_events:
            log.warning("--kv-events: whoever reaches that port may follow, without a token")
        shape = _shape(options)
        config = engine_config(options)
        if isinstance(shape, ModelConfig):
            _check(config, shape)
    if isinstance(shape, ModelConfig) and config.group.node:
        sys.exit(_follow(options, config, shape, tokens))
    with _mistakes_told(options):
        names = tuple(options.served_model_name or [Path(options.model).resolve().name])
        served = _served(options, names, shape)
    process = ServingProcess(config, names, _listen(options), tokens, options.drain_timeout, began)
    sys.exit(uvloop.run(process.run(served)))


@contextmanager
def _mistakes_told(options: argparse.Namespace) -> Iterator[None]:
    """End with a complaint about what a user can put right."""
    try:
        yield
    except (UnsupportedModel, TokenizerError, ChatTemplateError, OSError) as error:
        sys.exit(_complaint(f"--model {options.model}: {error}"))
    except (UnsupportedDraft, ValueError) as error:
        sys.exit(_complaint(str(error)))


def _shape(options: argparse.Namespace) -> ModelConfig | PoolingShape:
    """Return what the model's files say of it, and note in the options what it is for.

    Raises:
        UnsupportedModel: it cannot be served, or not with these flags.
    """
    folder = Path(options.model)
    options.task = task_of(folder, options.task)
    pooling = options.task.is_pooling
    shape = read_shape(folder, options.task) if pooling else read_config(folder)
    if pooling and (flag := _generating_only(options)):
        raise UnsupportedModel(f"{flag} is for models that generate; this one does not")
    if options.runner == "model":
        weight_files(folder)
    return shape


def _check(config: EngineConfig, shape: ModelConfig) -> None:
    """See that a model can be computed as it is asked for, before a process begins to.

    Raises:
        UnsupportedDraft, UnsupportedModel, ValueError: it cannot.
    """
    draft_shape(config, shape, shape.longest(config.max_model_len))
    if config.group.node:
        from penstock_worker.tensor_parallel.shares import refuse

        refuse(config, shape)


def _follow(
    options: argparse.Namespace, config: EngineConfig, shape: ModelConfig, tokens: WorkerTokens
) -> int:
    """Compute for node 0 until told to end; return the exit status."""
    from penstock_worker.tensor_parallel.follower import Follower
    from penstock_worker.tensor_parallel.follower_server import serve
    from penstock_worker.tensor_parallel.terms import terms

    with _mistakes_told(options):
        follower = Follower(config, terms(config, shape), tokens, options.drain_timeout)
    serve(follower, _listen(options))
    return follower.run()


def _served(
    options: argparse.Namespace, names: tuple[str, ...], shape: ModelConfig | PoolingShape
) -> Callable[[int], Served]:
    """Return what makes, of the context that fits into memory, what requests are checked against.

    Raises:
        TokenizerError, ChatTemplateError: the files are not there, or unusable.
    """
    folder = Path(options.model)
    tokenizer, template = Tokenizer(folder), ChatTemplate(folder)
    _check_adapters(options.adapter, names)

    def served(max_model_len: int) -> Served:
        return Served(
            names,
            tokenizer,
            template,
            shape.eos_token_ids,
            max_model_len,
            shape.vocab_size,
            Grammars(folder, shape.vocab_size, shape.eos_token_ids),
            shape if isinstance(shape, PoolingShape) else None,
        )

    return served


def _check_adapters(wanted: list[tuple[str, Path]], names: tuple[str, ...]) -> None:
    """See that adapters can be read, and each told from all others."""
    found: list[str] = []
    for name, folder in wanted:
        try:
            if name in (*names, *found):
                raise UnsupportedAdapter("the name is taken: choose another")
            read_adapter_config(folder)
        except UnsupportedAdapter as error:
            sys.exit(_complaint(f"--adapter {name}={folder}: {error}"))
        found.append(name)


def _generating_only(options: argparse.Namespace) -> str:
    """Return a flag that was given and means nothing to a model that embeds or scores."""
    for flag, given in (
        ("--adapter", options.adapter),
        ("--max-adapters", options.max_adapters),
        ("--kv-events", options.kv_events is not None),
        ("--kv-tier-disk", options.kv_tier_disk is not None),
        ("--kv-transfer", options.kv_transfer is not None),
        ("--speculative", options.speculative != "none"),
        ("--tensor-parallel-size", options.tensor_parallel_size > 1),
        ("--runner sim", options.runner == "sim"),
    ):
        if given:
            return flag
    return ""


def _listen(options: argparse.Namespace) -> socket.socket:
    """Return a socket at --host and --port; end with a complaint where they cannot be had."""
    host, port = options.host, options.port
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        sys.exit(_complaint(f"--port: cannot listen on {host}:{port}: {error.strerror}"))
    return listener


def _complaint(problem: str) -> int:
    """Say what is wrong on standard error; 2 is the status for wrong usage."""
    sys.stderr.write(f"penstock-worker: {problem}\n")
    return 2
