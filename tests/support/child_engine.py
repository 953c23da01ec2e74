"""A real engine process, with the test at the other end of its socket."""

import socket
import subprocess
import sys
from typing import Any

import msgspec
from waiting import PATIENCE

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import Batch, Event, Output
from penstock_worker.wire import encode, event_decoder


class Process:
    """An engine process and our end of its socket."""

    def __init__(self, config: EngineConfig) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE)
        text = msgspec.json.encode(config).decode()
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "penstock_worker.engine_process",
                    str(theirs.fileno()),
                    text,
                ],
                pass_fds=[theirs.fileno()],
            )
        self._decoder = event_decoder()
        self._events: list[Event] = []

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.socket.sendall(encode(message))

    def event(self) -> Event | None:
        """Return the next event; None when the engine has closed the socket."""
        while not self._events:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._events = self._decoder.feed(data)
        return self._events.pop(0)

    def until_idle(self, requests: int) -> list[Output]:
        """Return all outputs, once so many requests have finished and the engine says it rests."""
        outputs: list[Output] = []
        for event in iter(self.event, None):
            assert isinstance(event, Batch)
            outputs += event.outputs
            finished = sum(1 for output in outputs if output.finish_reason)
            if finished == requests and not event.outputs and not event.stats.running:
                assert event.stats.blocks_used == 0
                return outputs
        raise AssertionError("the engine has ended")

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(timeout=PATIENCE)
