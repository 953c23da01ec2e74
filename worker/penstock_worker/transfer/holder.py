"""Serves leased blocks to whoever pulls them. Threads of its own; the engine never waits for them.

A connection has a thread, and there are few: a worker that pulls has one connection per prompt.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from penstock_contract.handoff import LeaseOutcome
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.transfer.handshake import admit
from penstock_worker.transfer.leases import Lease, Leases
from penstock_worker.transfer.memory import BlockMemory
from penstock_worker.transfer.protocol import (
    Channel,
    Corrupt,
    Granted,
    Pull,
    Refusal,
    Refused,
    Release,
)

log = logging.getLogger("penstock.worker.transfer")

MAX_CONNECTIONS = 64
STALL_SECONDS = 5.0
"""For a peer that says nothing, or takes nothing."""
PAUSE_SECONDS = 0.5
"""After a connection could not be accepted: out of file descriptors, say. That passes."""
GREETING_SECONDS = 10.0
"""For everything before and behind the blocks."""


class Holder:
    """Listens, and sends blocks.

    Args:
        listener: bound; the holder's own from now on.
        leases: what may be pulled.
        memory: the blocks' bytes.
        epoch: of this engine.
        fingerprint: of its blocks.
        tokens: one of which a puller must know.
        wake: called when a lease has ended, or its last reader has gone; from any thread.
        clock: monotonic seconds, as in the leases.
    """

    def __init__(
        self,
        listener: socket.socket,
        leases: Leases,
        memory: BlockMemory,
        *,
        epoch: str,
        fingerprint: bytes,
        tokens: WorkerTokens,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._leases = leases
        self._memory = memory
        self._epoch = epoch
        self._fingerprint = fingerprint
        self._tokens = tokens
        self._wake = wake
        self._clock = clock
        self._closed = False
        self._seats = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def start(self) -> None:
        """Listen, until closed."""
        self._listener.listen(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, name="kv-holder", daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more; what is being sent is sent."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _accept(self) -> None:
        while True:
            self._seats.acquire()  # who comes while all are taken waits in the system's queue
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                self._seats.release()
                if self._closed:
                    return
                log.warning("cannot accept a connection: %s", error)
                time.sleep(PAUSE_SECONDS)
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="kv-holder", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        deadline = self._clock() + GREETING_SECONDS
        channel = Channel(connection, deadline=deadline, stall=STALL_SECONDS, clock=self._clock)
        try:
            with contextlib.closing(channel), contextlib.suppress(OSError, Corrupt):
                self._answer(channel)
        finally:
            self._seats.release()

    def _answer(self, channel: Channel) -> None:
        match admit(channel, self._tokens):
            case Refusal() as reason:
                _refuse(channel, reason)
            case Release() as message:
                self._release(message, LeaseOutcome.RELEASED)
            case Pull() as wanted:
                lease = self._open(wanted)
                if isinstance(lease, Refusal):
                    _refuse(channel, lease)
                    return
                try:
                    self._send(channel, lease, wanted)
                finally:
                    self._leases.close(lease)
                    self._wake()
                match channel.receive():
                    case Release() as message:
                        self._release(message, LeaseOutcome.PULLED)

    def _open(self, wanted: Pull) -> Lease | Refusal:
        if wanted.epoch != self._epoch:
            return Refusal.EPOCH
        if wanted.fingerprint != self._fingerprint:
            return Refusal.FINGERPRINT
        lease = self._leases.open(wanted.lease, self._clock())
        if lease is None:
            return Refusal.LEASE
        if not _covers(lease, wanted):
            self._leases.close(lease)
            return Refusal.BLOCKS
        return lease

    def _send(self, channel: Channel, lease: Lease, wanted: Pull) -> None:
        channel.deadline = lease.deadline
        channel.send(Granted(self._epoch, self._fingerprint, self._memory.block_bytes))
        for index in range(wanted.first, wanted.first + wanted.count):
            channel.send_block(lease.names[index], self._memory.read(lease.blocks[index]))
        channel.deadline = self._clock() + GREETING_SECONDS

    def _release(self, message: Release, outcome: LeaseOutcome) -> None:
        if message.epoch == self._epoch:
            self._leases.end(message.lease, outcome)
            self._wake()


def _refuse(channel: Channel, reason: Refusal) -> None:
    log.info("refused a pull: %s", reason)
    channel.send(Refused(reason))


def _covers(lease: Lease, wanted: Pull) -> bool:
    end = wanted.first + wanted.count
    if wanted.first < 0 or wanted.count < 1 or end > len(lease.blocks):
        return False
    return lease.names[end - 1] == wanted.name
