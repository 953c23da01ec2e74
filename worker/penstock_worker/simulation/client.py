"""The server's end of a simulated engine, which is a thread: it sleeps, so it needs no process."""

import contextlib
import os
import socket
import threading

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.engine_loop import run_engine
from penstock_worker.server.engine_client import EngineClient
from penstock_worker.simulation.builder import build_engine


class SimulatedEngineClient(EngineClient):
    """An engine client whose engine runs in this process, over the same socket and messages."""

    async def launch(self, theirs: socket.socket) -> None:
        """Start the engine on its end of the socket."""
        threading.Thread(target=_run, args=(theirs.dup(), self.config), daemon=True).start()


def _run(connection: socket.socket, config: EngineConfig) -> None:
    with connection:
        tokens = WorkerTokens.of(os.environ)
        run_engine(connection, config, lambda found: build_engine(found, tokens))
        # Closing would not do: the thread that reads still holds the socket.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
