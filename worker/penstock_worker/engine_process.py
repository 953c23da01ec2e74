"""The engine's own process.

The server starts it as `python -m penstock_worker.engine_process FD CONFIG`, where FD is one end of
a socket pair and CONFIG an `EngineConfig` as JSON. It announces `Ready` after it has generated a
token, and ends when the socket closes, so it never outlives its server.
"""

import os
import signal
import socket
import sys

import msgspec

from penstock_contract.api.engine import Task
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.engine_interface import Engine
from penstock_worker.engine_loop import run_engine
from penstock_worker.messages import Ready
from penstock_worker.openmp import wait_asleep


def main() -> None:
    """Run an engine process; the arguments are a file descriptor and an EngineConfig."""
    # The server decides when the engine ends: a terminal's Ctrl-C goes to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    config = msgspec.json.decode(sys.argv[2].encode(), type=EngineConfig)
    sys.exit(run_engine(connection, config, _build))


def _build(config: EngineConfig) -> tuple[Engine, Ready]:
    wait_asleep(os.environ)
    # torch takes a second to import: by now commands are already being read.
    if Task(config.task).is_pooling:
        from penstock_worker.pooling.builder import build_pooling_engine

        return build_pooling_engine(config)
    from penstock_worker.engine_builder import build_engine

    return build_engine(config, WorkerTokens.of(os.environ))


if __name__ == "__main__":
    main()
