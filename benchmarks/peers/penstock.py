"""Penstock's engine process, spoken to as the worker's server does: token ids over a socket."""

import json
import socket
import subprocess
import sys

import msgspec
from protocol import Generate, serve

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Batch, Event, Failed, Ready, Sampling
from penstock_worker.wire import encode, event_decoder


class Engine:
    """An engine process and our end of its socket."""

    def __init__(self, config: EngineConfig) -> None:
        self._socket, theirs = socket.socketpair()
        self._decoder = event_decoder()
        self._events: list[Event] = []
        text = msgspec.json.encode(config).decode()
        module = "penstock_worker.engine_process"
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), text],
                pass_fds=[theirs.fileno()],
            )
        while not isinstance(self._event(), Ready):
            pass

    def generate(self, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        """Return the greedy continuation of each prompt."""
        greedy = Sampling(temperature=0.0)
        tokens: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            tokens[str(index)] = []
            request = AddRequest(
                id=str(index), prompt=prompt, max_tokens=max_tokens, sampling=greedy
            )
            self._socket.sendall(encode(request))
        left = len(prompts)
        while left:
            event = self._event()
            for output in event.outputs if isinstance(event, Batch) else []:
                tokens[output.id] += output.tokens
                left -= output.finish_reason is not None
        return list(tokens.values())

    def _event(self) -> Event:
        while not self._events:
            self._events = self._decoder.feed(self._socket.recv(1 << 16))
        event = self._events.pop(0)
        if isinstance(event, Failed):
            raise SystemExit(event.message)
        return event


def load() -> Generate:
    """Start the engine."""
    return Engine(msgspec.convert(json.loads(sys.argv[1]), EngineConfig)).generate


if __name__ == "__main__":
    serve(load)
