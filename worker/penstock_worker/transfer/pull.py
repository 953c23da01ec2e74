"""One pull of blocks from another worker, in a thread of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence

from penstock_contract.handoff import PullOutcome
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.messages import Source
from penstock_worker.transfer import protocol
from penstock_worker.transfer.handshake import StrangerError, introduce
from penstock_worker.transfer.memory import BlockMemory
from penstock_worker.transfer.protocol import (
    Channel,
    Corrupt,
    Granted,
    Refusal,
    Refused,
    Release,
)

CONNECT_SECONDS = 1.0
STALL_SECONDS = 5.0
"""Without a byte; then computing is the better bet."""
RELEASE_SECONDS = 2.0

_REFUSED = {
    Refusal.EPOCH: PullOutcome.STALE,
    Refusal.LEASE: PullOutcome.STALE,
    Refusal.VERSION: PullOutcome.INCOMPATIBLE,
    Refusal.TOKEN: PullOutcome.STRANGER,
    Refusal.FINGERPRINT: PullOutcome.INCOMPATIBLE,
    Refusal.BLOCKS: PullOutcome.INCOMPATIBLE,
}
_NOTHING_TO_RELEASE = (
    PullOutcome.COMPLETE,
    PullOutcome.UNREACHABLE,
    PullOutcome.STALE,
    PullOutcome.STRANGER,
)


class Pull:
    """Fills blocks of this worker with KV that another one has.

    Args:
        source: where it is.
        fingerprint: of this worker's blocks; the other's must be the same.
        first: index of the first block wanted, in the prompt.
        names: of the blocks wanted, in order.
        blocks: this worker's, to be filled; nobody else touches them before `done` is called.
        memory: where they are.
        tokens: that prove both workers to each other.
        deadline: monotonic seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        fingerprint: bytes,
        *,
        first: int,
        names: Sequence[bytes],
        blocks: Sequence[int],
        memory: BlockMemory,
        tokens: WorkerTokens,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.first = first
        self.names = names
        self.blocks = blocks
        self.received = 0
        """Blocks that are filled and proved, from the first on; they are right whatever follows."""
        self.outcome = PullOutcome.LOST
        """Final when `done` is called."""
        self._fingerprint = fingerprint
        self._memory = memory
        self._tokens = tokens
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._cancelled = False

    def start(self, done: Callable[["Pull"], None]) -> None:
        """Pull in a thread; `done` is called from it, once, when nothing more will be written."""
        threading.Thread(target=self._run, args=(done,), name="kv-pull", daemon=True).start()

    def cancel(self) -> None:
        """End soon; from any thread."""
        with self._lock:
            self._cancelled = True
            if self._channel is not None:
                self._channel.shut()

    def _run(self, done: Callable[["Pull"], None]) -> None:
        try:
            self.outcome = self._outcome()
        finally:
            if self._cancelled:
                # Whoever noticed first that time is up: this thread, or the engine.
                late = self._clock() >= self._deadline
                self.outcome = PullOutcome.LATE if late else PullOutcome.CANCELLED
            done(self)
        if self.outcome not in _NOTHING_TO_RELEASE:
            release(self.source, self._tokens)

    def _outcome(self) -> PullOutcome:
        try:
            connection = _connect(self.source, min(CONNECT_SECONDS, self._deadline - self._clock()))
        except (OSError, UnicodeError):  # the latter for a name that no host can have
            return PullOutcome.UNREACHABLE
        channel = Channel(
            connection, deadline=self._deadline, stall=STALL_SECONDS, clock=self._clock
        )
        with contextlib.closing(channel):
            with self._lock:
                self._channel = channel
                if self._cancelled:
                    return PullOutcome.CANCELLED
            try:
                return self._talk(channel)
            except StrangerError:
                return PullOutcome.STRANGER
            except Corrupt:
                return PullOutcome.CORRUPT
            except TimeoutError:
                return PullOutcome.LATE
            except OSError:
                return PullOutcome.LOST
            finally:
                with self._lock:
                    self._channel = None

    def _talk(self, channel: Channel) -> PullOutcome:
        refused = introduce(channel, self._tokens)
        if refused is not None:
            return _REFUSED[refused]
        channel.send(self._question())
        match channel.receive():
            case Refused(reason):
                return _REFUSED[reason]
            case Granted(epoch, fingerprint, block_bytes):
                if epoch != self.source.epoch:
                    return PullOutcome.STALE
                if (fingerprint, block_bytes) != (self._fingerprint, self._memory.block_bytes):
                    return PullOutcome.INCOMPATIBLE
            case _:
                raise Corrupt("neither granted nor refused")
        self._receive(channel)
        # All is here: whether the other side hears of it does not matter to this one.
        with contextlib.suppress(OSError):
            channel.send(Release(self.source.epoch, self.source.lease))
        return PullOutcome.COMPLETE

    def _question(self) -> protocol.Pull:
        return protocol.Pull(
            epoch=self.source.epoch,
            lease=self.source.lease,
            fingerprint=self._fingerprint,
            first=self.first,
            count=len(self.names),
            name=self.names[-1],
        )

    def _receive(self, channel: Channel) -> None:
        data = bytearray(self._memory.block_bytes)
        for block, name in zip(self.blocks, self.names, strict=True):
            channel.receive_block(name, data)
            self._memory.write(block, data)
            self.received += 1


def release(source: Source, tokens: WorkerTokens) -> None:
    """Tell whoever holds the blocks that nobody will pull them, as well as that can be done."""
    with contextlib.suppress(OSError, UnicodeError, Corrupt, StrangerError):
        deadline = time.monotonic() + RELEASE_SECONDS
        connection = _connect(source, RELEASE_SECONDS)
        with contextlib.closing(Channel(connection, deadline=deadline, stall=RELEASE_SECONDS)) as c:
            if introduce(c, tokens) is None:
                c.send(Release(source.epoch, source.lease))


def release_soon(source: Source, tokens: WorkerTokens) -> None:
    """`release`, in a thread."""
    threading.Thread(target=release, args=(source, tokens), name="kv-release", daemon=True).start()


def _connect(source: Source, patience: float) -> socket.socket:
    if patience <= 0:
        raise TimeoutError("the time is over")
    return socket.create_connection((source.host, source.port), timeout=patience)
