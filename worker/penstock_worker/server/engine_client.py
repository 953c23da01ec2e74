"""The server's end of the socket to the engine: starts the process, feeds it, hands out output."""

import asyncio
import logging
import socket
import sys
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import (
    Abort,
    AdapterChanged,
    AddInputs,
    AddRequest,
    Batch,
    Command,
    Event,
    Failed,
    FinishReason,
    LoadAdapter,
    Output,
    Ready,
    Release,
    Stats,
    Stop,
    UnloadAdapter,
)
from penstock_worker.wire import encode, event_decoder

log = logging.getLogger("penstock.worker")


class EngineDied(Exception):
    """The engine process ended; nothing can be generated any more."""


class HandedBack(Exception):
    """The worker leaves: what is unfinished is for another one to continue."""


class EngineClient:
    """One engine process and the requests that it works on.

    Args:
        config: settings of the engine.
        on_batch: called with every batch of the engine, for metrics.
    """

    def __init__(self, config: EngineConfig, on_batch: Callable[[Batch], None]) -> None:
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.stats: Stats | None = None
        self.died = asyncio.Event()
        self.leaving = asyncio.Event()
        """Set when the engine is about to lose what it needs: another worker should go on."""
        self.unleased = asyncio.Event()
        """Set while no blocks are kept for other workers."""
        self.unleased.set()
        self.failure = ""
        self.config = config
        self._on_batch = on_batch
        self._leaving = False
        self._streams: dict[str, asyncio.Queue[Output | None]] = {}
        self._loading: dict[str, asyncio.Future[str]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the engine; `ready` resolves when it can generate."""
        ours, theirs = socket.socketpair()
        with theirs:
            await self.launch(theirs)
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader))

    async def launch(self, theirs: socket.socket) -> None:
        """Start the engine's process on its end of the socket."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # never import from the working directory
            "-m",
            "penstock_worker.engine_process",
            str(theirs.fileno()),
            msgspec.json.encode(self.config).decode(),
            pass_fds=[theirs.fileno()],
        )

    async def stop(self) -> None:
        """End the process and wait for it."""
        if self._writer is not None and not self.died.is_set():
            self._writer.write(encode(Stop()))
        if self._reading is not None:
            await self._reading
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            await self._process.wait()

    async def generate(
        self, requests: Sequence[AddRequest | AddInputs]
    ) -> AsyncGenerator[Output, None]:
        """Yield the outputs of all requests as they come, until each has finished.

        Whoever stops iterating early must close the generator: that aborts what is unfinished.

        Raises:
            EngineDied: before or while generating.
            HandedBack: the worker leaves before the requests have finished.
        """
        if self.died.is_set():
            raise EngineDied(self.failure)
        if self._leaving:
            raise HandedBack
        queue: asyncio.Queue[Output | None] = asyncio.Queue()
        self._streams.update(dict.fromkeys((request.id for request in requests), queue))
        self._send(*requests)  # at once: choices of one prompt are to be found together
        try:
            unfinished = len(requests)
            while unfinished:
                output = await queue.get()
                if output is None:
                    raise HandedBack if self._leaving else EngineDied(self.failure)
                if output.finish_reason is not None:
                    unfinished -= 1
                yield output
        finally:
            self._forget([request.id for request in requests])

    def hand_back(self) -> None:
        """End every request unfinished; the engine itself goes on."""
        self._leaving = True
        for queue in set(self._streams.values()):
            queue.put_nowait(None)

    def finish_early(self, request_id: str) -> None:
        """End one request (its stop string came): it reports `stop` and no more tokens."""
        queue = self._streams.get(request_id)
        self._forget([request_id])
        if queue is not None:
            queue.put_nowait(_ended(request_id))

    def release(self, lease: str) -> None:
        """End a lease: nobody will pull its blocks."""
        if not self.died.is_set():
            self._send(Release([lease]))

    async def load_adapter(self, name: str, folder: str) -> str:
        """Load an adapter, or put it in the place of the one of this name; return what is wrong.

        Raises:
            EngineDied: before or while loading.
        """
        if self.died.is_set():
            raise EngineDied(self.failure)
        message = LoadAdapter(uuid.uuid4().hex, name, folder)
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._loading[message.id] = found
        self._send(message)
        try:
            return await found
        finally:
            del self._loading[message.id]

    def unload_adapter(self, name: str) -> None:
        """Let no request name an adapter that comes after this."""
        if not self.died.is_set():
            self._send(UnloadAdapter(name))

    def _forget(self, ids: list[str]) -> None:
        live = [request_id for request_id in ids if self._streams.pop(request_id, None) is not None]
        if live and not self.died.is_set():
            self._send(Abort(live))

    def _send(self, *messages: Command) -> None:
        if self._writer is not None:
            self._writer.write(b"".join(map(encode, messages)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = event_decoder()
        try:
            while data := await reader.read(1 << 18):
                for event in decoder.feed(data):
                    self._handle(event)
        except ConnectionError:
            pass  # the same as the end of the stream
        self._end()

    def _handle(self, event: Event) -> None:
        match event:
            case Ready():
                if not self.ready.done():
                    self.ready.set_result(event)
            case Failed(message):
                self.failure = message
            case AdapterChanged(change, problem):
                if change in self._loading and not self._loading[change].done():
                    self._loading[change].set_result(problem)
            case Batch(outputs, stats):
                self.stats = stats
                self._note_leases(stats)
                self._note_leaving(stats)
                self._on_batch(event)
                for output in outputs:
                    queue = self._streams.get(output.id)
                    if queue is None:
                        self._decline(output)
                    else:
                        if output.finish_reason is not None:
                            del self._streams[output.id]
                        queue.put_nowait(output)

    def _decline(self, output: Output) -> None:
        """Give back what was kept for an answer that nobody waits for any more."""
        if output.kept is not None:
            self.release(output.kept["remote_request_id"])

    def _note_leaving(self, stats: Stats) -> None:
        if stats.leaving and not self.leaving.is_set():
            log.warning("%s was told to end: this worker leaves with it", stats.leaving)
            self.leaving.set()

    def _note_leases(self, stats: Stats) -> None:
        if stats.handoff is not None and stats.handoff.leases:
            self.unleased.clear()
        else:
            self.unleased.set()

    def _end(self) -> None:
        self.failure = self.failure or "the engine process ended unexpectedly"
        self.died.set()
        self.unleased.set()
        for queue in set(self._streams.values()):
            queue.put_nowait(None)
        for loading in self._loading.values():
            if not loading.done():
                loading.set_exception(EngineDied(self.failure))
        if not self.ready.done():
            self.ready.set_exception(EngineDied(self.failure))
            self.ready.exception()  # the server asks later; an unasked exception would be logged


def _ended(request_id: str) -> Output:
    return Output(id=request_id, tokens=[], finish_reason=FinishReason.STOP)
