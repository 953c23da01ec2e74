"""An engine that a test plays by hand, over the socket and the messages of the real one.

What the server does when tokens stall, when the engine dies or refuses, is then a matter of the
test's own steps and not of timing.
"""

import asyncio
import socket
from typing import Any

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import (
    Abort,
    AddRequest,
    Batch,
    FinishReason,
    Output,
    Ready,
    Release,
    Stats,
)
from penstock_worker.server.engine_client import EngineClient
from penstock_worker.wire import command_decoder, encode

IDLE = Stats(
    running=0,
    waiting=0,
    blocks_free=8,
    blocks_cached=0,
    blocks_used=0,
    prefix_queries=0,
    prefix_hits=0,
    preemptions=0,
    bounded_steps=0,
    step_seconds=0.0,
    prefill_tokens=0,
    decode_tokens=0,
)


class FakeEngine:
    """The engine's end of the socket; what the server has sent is in `added` and so on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.added: asyncio.Queue[AddRequest] = asyncio.Queue()
        self.aborted: asyncio.Queue[str] = asyncio.Queue()
        self.released: asyncio.Queue[str] = asyncio.Queue()
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = command_decoder()
        while data := await reader.read(1 << 16):
            for command in decoder.feed(data):
                if isinstance(command, AddRequest):
                    self.added.put_nowait(command)
                elif isinstance(command, Abort):
                    for request_id in command.ids:
                        self.aborted.put_nowait(request_id)

                elif isinstance(command, Release):
                    for lease in command.leases:
                        self.released.put_nowait(lease)

    def ready(self, vocab_size: int) -> None:
        """Report to be loaded."""
        self._writer.write(encode(Ready("epoch", 8, 16, 1024, vocab_size, 0.1)))
        self._writer.write(encode(Batch([], IDLE)))

    def put(
        self, request: AddRequest, tokens: list[int], finish: FinishReason | None = None
    ) -> None:
        """Report what a step produced for a request."""
        self._writer.write(encode(Batch([Output(request.id, tokens, finish)], IDLE)))

    def put_kept(self, request: AddRequest, kept: dict[str, Any]) -> None:
        """Report a request's only token, and where its prompt's blocks are kept."""
        output = Output(request.id, [1], FinishReason.LENGTH, kept=kept)
        self._writer.write(encode(Batch([output], IDLE)))

    def refuse(self, request: AddRequest, error: str) -> None:
        """Give a request up."""
        output = Output(request.id, [], FinishReason.ABORT, error=error)
        self._writer.write(encode(Batch([output], IDLE)))

    def die(self) -> None:
        """Close the socket, as a killed process does."""
        self._writer.close()

    async def close(self) -> None:
        """End for good."""
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class FakeEngineClient(EngineClient):
    """A client whose engine is a `FakeEngine`, in the same process."""

    engine: FakeEngine

    def __init__(self, on_batch: object = lambda batch: None) -> None:
        super().__init__(EngineConfig(model=""), on_batch)  # type: ignore[arg-type]

    async def start(self) -> None:
        """Connect the two ends."""
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader))
        self.engine = FakeEngine(*await asyncio.open_unix_connection(sock=theirs))
