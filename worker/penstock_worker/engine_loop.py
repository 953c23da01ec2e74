"""The engine's end of the socket: commands in, events out, a step whenever there is work."""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator

import msgspec

from penstock_contract.kv_events.wire import Topic
from penstock_worker.engine_config import EngineConfig, KVEventsConfig
from penstock_worker.engine_interface import Engine
from penstock_worker.messages import (
    Abort,
    AddInputs,
    AddRequest,
    Batch,
    Command,
    Event,
    Failed,
    LoadAdapter,
    Output,
    Ready,
    Release,
    Stop,
    UnloadAdapter,
)
from penstock_worker.wire import command_decoder, encode, receive


class Wake:
    """Another thread has something for the engine to settle."""


Inbox = queue.SimpleQueue[Command | Wake | Exception]
"""What the server sent, in order; an exception when it has gone, or sent something unreadable."""

STALLED_SECONDS = 0.05
"""Between attempts to schedule, while all that waits needs blocks that others keep."""

Build = Callable[[EngineConfig], tuple[Engine, Ready]]
Publish = Callable[[Engine], None]


def run_engine(connection: socket.socket, config: EngineConfig, build: Build) -> int:
    """Build an engine and serve one connection until it closes; return the exit status.

    When the server stops or goes while the engine is built, which may wait for other nodes without
    an end, the process ends there and then.
    """
    inbox: Inbox = queue.SimpleQueue()
    built = threading.Event()
    threading.Thread(target=_read, args=(connection, inbox, built), daemon=True).start()
    try:
        try:
            engine, ready = build(config)
        finally:
            built.set()
        engine.start(lambda: inbox.put(Wake()))
        with _publishing(config.kv_events, ready.epoch) as publish:
            _send(connection, ready)
            _serve(connection, inbox, engine, publish)
        engine.close()
    except ConnectionError:
        return 0  # the server has gone
    except Exception as error:
        # The process ends here; the server must learn why, whatever it was.
        with contextlib.suppress(ConnectionError):
            _send(connection, Failed(f"{type(error).__name__}: {error}"))
        return 1
    return 0


def _read(connection: socket.socket, inbox: Inbox, built: threading.Event) -> None:
    """Put commands into the inbox; however this thread ends, the engine hears of it."""
    decoder = command_decoder()
    end: Exception = ConnectionError("the server has gone")
    try:
        while messages := receive(connection, decoder):
            for message in messages:
                inbox.put(message)
                if isinstance(message, Stop) and not built.is_set():
                    os._exit(0)
    except (ConnectionError, msgspec.MsgspecError) as error:
        # A server that was killed with unread output resets the connection.
        end = error
    inbox.put(end)
    if isinstance(end, ConnectionError) and not built.is_set():
        os._exit(0)


@contextlib.contextmanager
def _publishing(config: KVEventsConfig | None, epoch: str) -> Iterator[Publish]:
    """Yield what publishes the cache's changes after a step; it does nothing if nobody wants it."""
    if config is None:
        yield lambda _: None
        return
    from penstock_worker.kv_events.publisher import Publisher

    publisher = Publisher(config, Topic(config.worker, epoch, config.model))
    try:
        yield lambda engine: publisher.publish(engine.cache_changes())
    finally:
        publisher.close()


def _serve(connection: socket.socket, inbox: Inbox, engine: Engine, publish: Publish) -> None:
    """Alternate between taking commands and computing; sleep only when there is nothing to do."""
    _send(connection, Batch([], engine.stats()))
    while True:
        refused: list[Output] = []
        for message in _messages(inbox, engine):
            match message:
                case AddRequest() | AddInputs():
                    refusal = engine.add(message)
                    if refusal is not None:
                        refused.append(refusal)
                case Abort(ids):
                    engine.abort(ids)
                case Release(leases):
                    engine.release(leases)
                case LoadAdapter() | UnloadAdapter():
                    engine.change_adapters(message)
                case Stop():
                    return
                case Exception() as error:
                    raise error
        engine.settle()
        if refused:
            _send(connection, Batch(refused, engine.stats()))
        if engine.busy:
            _send(connection, _step(connection, engine))
            publish(engine)
        for change in engine.changed_adapters():
            _send(connection, change)
        if not engine.busy:
            engine.check()
            _send(connection, Batch([], engine.stats()))


def _messages(inbox: Inbox, engine: Engine) -> Iterator[Command | Wake | Exception]:
    """Yield what is in the inbox; wait for something only when there is nothing to compute."""
    patience: float | None = 0.0
    if not engine.busy:
        patience = engine.patience()
    elif engine.stalled:
        patience = STALLED_SECONDS
    with contextlib.suppress(queue.Empty):
        yield inbox.get(block=patience != 0.0, timeout=patience)
        while True:
            yield inbox.get_nowait()


def _step(connection: socket.socket, engine: Engine) -> Batch:
    """Step; when that fails, nobody is left waiting: every request ends with the reason."""
    try:
        return engine.step()
    except Exception as error:
        _send(connection, engine.give_up(f"the engine failed: {type(error).__name__}: {error}"))
        raise


def _send(connection: socket.socket, event: Event) -> None:
    connection.sendall(encode(event))
