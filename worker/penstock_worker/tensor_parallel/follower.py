"""A node other than the first: it joins node 0, runs its ranks, and joins again when they end.

Node 0 may come long after this one, and may be another process each time. Ranks are new processes
each time, too, so nothing of a group that broke is left in the next one. No torch here.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from types import FrameType

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig
from penstock_worker.tensor_parallel.joining import (
    JOINING_SECONDS,
    Parked,
    RefusedError,
    Welcome,
    hear,
    introduce,
)
from penstock_worker.tensor_parallel.rank_config import Meeting, RankConfig
from penstock_worker.tensor_parallel.starting import RankProcess
from penstock_worker.tensor_parallel.terms import Terms

AGAIN_SECONDS = 1.0
"""Between two attempts to join."""
REPEAT_SECONDS = 30.0
"""Between two lines of the log that say the same."""
ENDING_SECONDS = 2.0
"""For a rank to end when it is told to."""

log = logging.getLogger("penstock.worker")

Events = queue.SimpleQueue[RankProcess | None]
"""Ranks that have ended; None: this node was told to end."""


class Follower:
    """One node's ranks, for one group after the other.

    Args:
        config: of this node.
        terms: in which it must agree with node 0.
        tokens: by which nodes know each other.
        patience: seconds to go on for others after this node was told to end.
    """

    def __init__(
        self, config: EngineConfig, terms: Terms, tokens: WorkerTokens, patience: float
    ) -> None:
        self.in_group = False
        self.state = "waiting for node 0"
        """For people."""
        self._config = config
        self._terms = terms
        self._tokens = tokens
        self._patience = patience
        self._first = config.group.node * config.local_ranks
        self._events: Events = queue.SimpleQueue()
        self._leaving = False
        self._told = 0.0

    def run(self) -> int:
        """Follow until told to end; return the exit status."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        while not self._leaving:
            try:
                self._follow(self._join())
            except RefusedError as error:
                self._say(f"node 0 at {self._address} and this node do not fit: {error}")
            except OSError as error:
                self._say(f"waiting for node 0 at {self._address}: {error.strerror or error}")
            if not self._leaving:
                time.sleep(AGAIN_SECONDS)
        return 0

    @property
    def _address(self) -> str:
        return f"{self._config.group.host}:{self._config.group.port}"

    def _join(self) -> tuple[Meeting, list[socket.socket]]:
        """Connect each rank to rank 0, and wait until the ranks of all nodes are there."""
        group = self._config.group
        with contextlib.ExitStack() as unless_all_come:
            connections = []
            for rank in range(self._first, self._first + self._config.local_ranks):
                connection = socket.create_connection((group.host, group.port), JOINING_SECONDS)
                unless_all_come.enter_context(connection)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                introduce(connection, self._tokens, rank, self._terms)
                connections.append(connection)
            self._say(f"joined node 0 at {self._address}: waiting for other nodes")
            meetings = [_welcomed(connection) for connection in connections]
            unless_all_come.pop_all()
        return meetings[0], connections

    def _follow(self, joined: tuple[Meeting, list[socket.socket]]) -> None:
        """Run this node's ranks until one of them ends, and then end the others."""
        meeting, connections = joined
        address = str(connections[0].getsockname()[0])
        events: Events = queue.SimpleQueue()
        self._events = events  # nothing of the group before
        ranks = []
        for number, connection in enumerate(connections, self._first):
            with connection:
                config = RankConfig(self._config, number, meeting, address)
                rank = RankProcess(config, connection)
            ranks.append(rank)
            threading.Thread(target=_report, args=(rank, events), daemon=True).start()
        self.in_group = True
        self._say(f"in a group: computes for node 0 at {self._address}")
        try:
            ended = self._until_one_ends(ranks)
        finally:
            self.in_group = False
            for rank in ranks:
                rank.close(ENDING_SECONDS)
        self._say(f"the group has ended: {ended}")

    def _until_one_ends(self, ranks: list[RankProcess]) -> str:
        """Return what has ended the group; when told to end, let node 0 go first."""
        deadline = None
        while True:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ended = self._events.get(timeout=left)
            except queue.Empty:
                return "this node was told to end, and node 0 has not let go"
            if ended is not None:
                return f"rank {ended.rank} has ended with status {ended.wait()}"
            deadline = time.monotonic() + self._patience
            log.info("told to end: node 0 is to hand its requests to other workers")
            ranks[0].leave()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Leave the group on the first signal; where there is none, or on the second, at once."""
        if self._leaving or not self.in_group:
            os._exit(0)  # ranks end with this process
        self._leaving = True
        self._events.put(None)

    def _say(self, state: str) -> None:
        """Log what this node is doing: when that is new, and from time to time."""
        now = time.monotonic()
        if state != self.state or now > self._told + REPEAT_SECONDS:
            log.info("%s", state)
            self.state, self._told = state, now


def _report(rank: RankProcess, events: Events) -> None:
    rank.wait()
    events.put(rank)


def _welcomed(connection: socket.socket) -> Meeting:
    """Wait until node 0 says where to meet; it says something all the time."""
    while True:
        match hear(connection, time.monotonic() + JOINING_SECONDS):
            case Parked():
                continue
            case Welcome(meeting):
                return meeting
        raise RefusedError("node 0 said what it does not say to those who wait")
