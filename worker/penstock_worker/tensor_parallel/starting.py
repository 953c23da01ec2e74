"""The process of a rank: the engine starts those of its own node, a follower those of another."""

import contextlib
import os
import socket
import subprocess
import sys

import msgspec

from penstock_worker.tensor_parallel.rank_config import RankConfig


class RankProcess:
    """A rank's process; it ends when its connection does, or when this one ends.

    Args:
        config: what it is told.
        connection: to rank 0; still open here afterwards.
    """

    def __init__(self, config: RankConfig, connection: socket.socket) -> None:
        self.rank = config.rank
        theirs, self._speaking = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # never import from the working directory
                    "-m",
                    "penstock_worker.tensor_parallel.rank_process",
                    str(connection.fileno()),
                    msgspec.json.encode(config).decode(),
                ],
                stdin=theirs,
                pass_fds=[connection.fileno()],
            )
        finally:
            os.close(theirs)

    def wait(self) -> int:
        """Return the exit status once it has ended."""
        return self._process.wait()

    def leave(self) -> None:
        """Let it tell rank 0 that this node was told to end."""
        with contextlib.suppress(OSError):  # it may just have ended
            os.write(self._speaking, b"leave\n")

    def kill(self) -> None:
        """End it by force."""
        self._process.kill()

    def close(self, patience: float) -> None:
        """End it, by force where it takes longer."""
        with contextlib.suppress(OSError):
            os.close(self._speaking)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
