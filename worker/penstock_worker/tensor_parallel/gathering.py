"""How node 0 waits for the ranks of other nodes, for as long as it takes."""

import contextlib
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from penstock_contract.group import GROUP_ADDRESS
from penstock_contract.worker_token import ENVIRONMENT, WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.tensor_parallel.joining import Parked, RefusedError, Welcome, admit, send
from penstock_worker.tensor_parallel.messages import BEAT_SECONDS
from penstock_worker.tensor_parallel.rank_config import Meeting
from penstock_worker.tensor_parallel.terms import Terms

AT_ONCE = 16
"""Connections that are admitted at the same time; more wait."""
TELLING_BEATS = 15
"""Between two lines of the log that tell who is missing."""
LISTENING_SECONDS = 20.0
"""For the group's address to become free, and known."""
LISTENING_AGAIN_SECONDS = 0.5
LOCAL = "127.0.0.1"


class Joined(NamedTuple):
    """A rank of another node."""

    connection: socket.socket
    at: str
    """Its node's address."""


class Gathered(NamedTuple):
    """Where the ranks reach this node, and those of other nodes by their numbers."""

    host: str
    joined: dict[int, Joined]


def gather(config: EngineConfig, own: Terms, tokens: WorkerTokens) -> Gathered:
    """Return when all ranks of other nodes are there; at once if there are none.

    Args:
        config: of the engine; this is node 0.
        own: its terms.
        tokens: by which nodes know each other.
    """
    ranks = range(config.local_ranks, config.tensor_parallel_size)
    if not ranks:
        return Gathered(LOCAL, {})
    listener = _listening(config.group.host, config.group.port)
    host = str(listener.getsockname()[0])
    if not tokens.values:
        _say(f"no {ENVIRONMENT} is set: whoever reaches {_name(listener)} may join")
    waiting = _Waiting(listener, own, tokens, ranks)
    try:
        return Gathered(host, waiting.all())
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listener.close()


def invite(joined: Mapping[int, Joined], meeting: Meeting) -> None:
    """Tell the ranks of other nodes where to meet; who has gone by now is missed there."""
    for one in joined.values():
        with contextlib.suppress(OSError):
            send(one.connection, Welcome(meeting))


class _Waiting:
    """Ranks that have joined, until all have."""

    def __init__(
        self, listener: socket.socket, own: Terms, tokens: WorkerTokens, ranks: range
    ) -> None:
        self._listener = listener
        self._own, self._tokens, self._ranks = own, tokens, ranks
        self._joined: dict[int, Joined] = {}
        self._new: queue.SimpleQueue[tuple[int, Joined]] = queue.SimpleQueue()
        self._free = threading.Semaphore(AT_ONCE)
        threading.Thread(target=self._accept, daemon=True).start()

    def all(self) -> dict[int, Joined]:
        """Wait for all of them."""
        beats = 0
        while missing := self._ranks_missing():
            if not beats % TELLING_BEATS:
                _say(f"waits for {missing} at {GROUP_ADDRESS} {_name(self._listener)}")
            try:
                rank, one = self._new.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                beats += 1
                self._let_go()
            else:
                self._take(rank, one)
        return self._joined

    def _ranks_missing(self) -> str:
        missing = [str(rank) for rank in self._ranks if rank not in self._joined]
        if not missing:
            self._let_go()  # the last one may have come after the first has gone
            missing = [str(rank) for rank in self._ranks if rank not in self._joined]
        return f"rank {', '.join(missing)}" if missing else ""

    def _take(self, rank: int, one: Joined) -> None:
        before = self._joined.pop(rank, None)
        if before is not None:
            before.connection.close()  # a node that has come again, without a farewell
        self._joined[rank] = one
        _say(f"rank {rank} has joined from {one.at}")

    def _let_go(self) -> None:
        """Tell those who wait that this node is there, and forget who is not there any more."""
        for rank, (connection, _) in [*self._joined.items()]:
            # Nobody says anything while it is parked: what can be read is its end.
            gone = bool(select.select([connection], [], [], 0)[0])
            try:
                send(connection, Parked())
            except OSError:
                gone = True
            if gone:
                self._joined.pop(rank).connection.close()
                _say(f"rank {rank} has gone before all were there")

    def _accept(self) -> None:
        """Admit whoever comes, each in its own thread, until the listener is closed."""
        while True:
            self._free.acquire()
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._admit, args=(connection, address[0]), daemon=True).start()

    def _admit(self, connection: socket.socket, at: str) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            rank = admit(connection, self._tokens, self._own, self._ranks)
            self._new.put((rank, Joined(connection, at)))
        except (RefusedError, OSError) as error:
            connection.close()
            _say(f"a node at {at} has not joined: {error}")
        finally:
            self._free.release()


def _listening(host: str, port: int) -> socket.socket:
    """Return what listens at the group's address, which must be one of this node's.

    A name may not be known yet, and the engine before this one may still be there.

    Raises:
        ValueError: it is no address of this node, or somebody else listens there.
    """
    deadline = time.monotonic() + LISTENING_SECONDS
    while True:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(found[4][:2], family=found[0], backlog=AT_ONCE)
        except OSError as error:
            if time.monotonic() > deadline:
                reason = f"node 0 cannot listen on {host}:{port}: {error.strerror}"
                raise ValueError(f"{GROUP_ADDRESS}: {reason}") from error
        time.sleep(LISTENING_AGAIN_SECONDS)


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


def _say(what: str) -> None:
    sys.stderr.write(f"penstock-worker: node 0: {what}\n")
    sys.stderr.flush()
