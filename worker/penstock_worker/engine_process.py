"""The engine's own process: commands in, events out, a step whenever there is work.

The server starts it as `python -m penstock_worker.engine_process FD CONFIG`, where FD is one end of
a socket pair and CONFIG an `EngineConfig` as JSON. It announces `Ready` after it has generated a
token, and ends when the socket closes, so it never outlives its server.
"""

import contextlib
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import (
    Abort,
    AddRequest,
    Batch,
    Command,
    Event,
    Failed,
    FinishReason,
    Output,
    Ready,
    Sampling,
    Stop,
)
from penstock_worker.wire import command_decoder, encode, receive

if TYPE_CHECKING:  # torch takes a second to import: the process first says that it lives
    from penstock_worker.engine import Engine


Inbox = queue.SimpleQueue[Command | Exception]
"""What the server sent, in order; an exception when it sent something unreadable."""

DTYPES = ("auto", "float32", "bfloat16")

DEFAULT_KV_BYTES = 1 << 30


def main() -> None:
    """Run an engine process; the arguments are a file descriptor and an EngineConfig."""
    # The server decides when the engine ends: a terminal's Ctrl-C goes to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    config = msgspec.json.decode(sys.argv[2].encode(), type=EngineConfig)
    sys.exit(run_engine(connection, config))


def run_engine(connection: socket.socket, config: EngineConfig) -> int:
    """Serve one connection until it closes; return the exit status."""
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    try:
        engine, ready = _load(config)
        _send(connection, ready)
        _serve(connection, inbox, engine)
    except ConnectionError:
        return 0  # the server has gone
    except Exception as error:
        # The process ends here; the server must learn why, whatever it was.
        with contextlib.suppress(ConnectionError):
            _send(connection, Failed(f"{type(error).__name__}: {error}"))
        return 1
    return 0


def _read(connection: socket.socket, inbox: Inbox) -> None:
    """Put commands into the inbox; however this thread ends, the engine hears of it."""
    decoder = command_decoder()
    try:
        while messages := receive(connection, decoder):
            for message in messages:
                inbox.put(message)
    except ConnectionError:
        pass  # a server that was killed with unread output resets the connection
    except msgspec.MsgspecError as error:
        inbox.put(error)
        return
    inbox.put(Stop())


def _serve(connection: socket.socket, inbox: Inbox, engine: "Engine") -> None:
    """Alternate between taking commands and computing; sleep only when there is nothing to do."""
    _send(connection, Batch([], engine.stats()))
    while True:
        idle = not engine.busy
        refused: list[Output] = []
        while idle or not inbox.empty():
            idle = False
            match inbox.get():
                case AddRequest() as message:
                    refusal = engine.add(message)
                    if refusal is not None:
                        refused.append(refusal)
                case Abort(ids):
                    engine.abort(ids)
                case Stop():
                    return
                case unreadable:
                    raise unreadable
        if refused:
            _send(connection, Batch(refused, engine.stats()))
        if engine.busy:
            _send(connection, _step(connection, engine))
        if not engine.busy:
            engine.pool.check()
            _send(connection, Batch([], engine.stats()))


def _step(connection: socket.socket, engine: "Engine") -> Batch:
    """Step; when that fails, nobody is left waiting: every request ends with the reason."""
    try:
        return engine.step()
    except Exception as error:
        _send(connection, engine.give_up(f"the engine failed: {type(error).__name__}: {error}"))
        raise


def _send(connection: socket.socket, event: Event) -> None:
    connection.sendall(encode(event))


def _load(config: EngineConfig) -> "tuple[Engine, Ready]":
    """Load the model, allocate the pool, and generate a token to warm everything up."""
    began = time.monotonic()
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype {config.dtype!r} is not one of {', '.join(DTYPES)}")
    import torch

    from penstock_worker.attention.reference import ReferenceAttention
    from penstock_worker.block_pool import BlockPool
    from penstock_worker.engine import Engine
    from penstock_worker.model.config import read_config
    from penstock_worker.model.decoder import load_decoder
    from penstock_worker.runner import TorchRunner

    if config.threads:
        torch.set_num_threads(config.threads)
    dtype = {"bfloat16": torch.bfloat16}.get(config.dtype, torch.float32)
    folder = Path(config.model)
    shape = read_config(folder)
    max_model_len = min(config.max_model_len or shape.max_position, shape.max_position)
    decoder = load_decoder(folder, shape, dtype, max_model_len)
    block_bytes = shape.kv_bytes_per_token * config.block_size * dtype.itemsize // 4
    num_blocks = _num_blocks(config, max_model_len, block_bytes)
    attention = ReferenceAttention(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        num_blocks=num_blocks,
        block_size=config.block_size,
        dtype=dtype,
    )
    runner = TorchRunner(decoder, attention)

    def engine() -> Engine:
        return Engine(
            runner,
            BlockPool(num_blocks, config.block_size, caching=config.prefix_caching),
            vocab_size=shape.vocab_size,
            max_model_len=max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )

    _warm_up(engine())  # another one, so that its counters start at nothing
    return engine(), Ready(
        epoch=secrets.token_hex(8),
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
    )


def _num_blocks(config: EngineConfig, max_model_len: int, block_bytes: int) -> int:
    """Return the size of the pool; it must hold at least one full context."""
    context = -(-max_model_len // config.block_size)
    if config.kv_cache_bytes is None:
        room = min(DEFAULT_KV_BYTES, _available_memory() // 4)
        blocks = min(room // block_bytes, config.max_num_seqs * context)
    else:
        blocks = config.kv_cache_bytes // block_bytes
    if blocks < context:
        raise ValueError(
            f"the KV cache holds {blocks * config.block_size} tokens, fewer than max_model_len "
            f"{max_model_len}: raise --kv-cache-memory or lower --max-model-len"
        )
    return blocks


def _available_memory() -> int:
    """Return the bytes that can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return DEFAULT_KV_BYTES


def _warm_up(engine: "Engine") -> None:
    """Generate two tokens (prefill, then decode), so that the first request pays nothing extra."""
    greedy = Sampling(temperature=0.0)
    engine.add(AddRequest(id="warm-up", prompt=[0], max_tokens=2, sampling=greedy))
    while engine.busy:
        batch = engine.step()
        if any(output.finish_reason is FinishReason.ABORT for output in batch.outputs):
            raise RuntimeError(batch.outputs[0].error)


if __name__ == "__main__":
    main()
