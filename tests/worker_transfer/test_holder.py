"""Who serves blocks, asked by hand."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from penstock_contract.handoff import LeaseOutcome
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.transfer.handshake import introduce
from penstock_worker.transfer.holder import Holder
from penstock_worker.transfer.leases import Lease, Leases
from penstock_worker.transfer.memory import Buffer
from penstock_worker.transfer.protocol import (
    VERSION,
    Channel,
    Granted,
    Hello,
    Message,
    Pull,
    Refusal,
    Refused,
    Release,
)

EPOCH, FINGERPRINT = "epoch", b"fingerprint"
NAMES = [b"%016d" % number for number in range(8)]


class Memory:
    """Blocks large enough that a socket cannot hold all of them."""

    block_bytes = 1 << 20

    def read(self, block: int) -> list[memoryview]:
        return [memoryview(bytes([block]) * self.block_bytes)]

    def write(self, block: int, data: Buffer) -> None:
        raise AssertionError("who holds does not write")


class Held:
    """A holder of one lease."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        """The holder's."""
        self.leases = Leases(100)
        lease = self.leases.grant(range(8), NAMES, time.monotonic() + 60)
        assert lease is not None
        self.lease: Lease = lease
        self.woken = threading.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.holder = Holder(
            listener,
            self.leases,
            Memory(),
            epoch=EPOCH,
            fingerprint=FINGERPRINT,
            tokens=WorkerTokens(),
            wake=self.woken.set,
            clock=lambda: self.clock(),
        )
        self.holder.start()

    @contextlib.contextmanager
    def connected(self) -> Iterator[Channel]:
        with self.silent() as found:
            assert introduce(found, WorkerTokens()) is None
            yield found

    @contextlib.contextmanager
    def silent(self) -> Iterator[Channel]:
        """Connect, and say nothing yet."""
        connection = socket.create_connection(self.address)
        with contextlib.closing(
            Channel(connection, deadline=time.monotonic() + 60, stall=60)
        ) as found:
            yield found

    def question(self, **changes: object) -> Pull:
        asked = {"epoch": EPOCH, "lease": self.lease.id, "first": 0}
        asked |= {"fingerprint": FINGERPRINT, "count": 8, "name": NAMES[7], **changes}
        return Pull(**asked)  # type: ignore[arg-type]

    def answer(self, message: Message) -> Message:
        with self.connected() as channel:
            channel.send(message)
            return channel.receive()

    def collected(self) -> str:
        """Return how the lease ended, once nobody reads it."""
        deadline = time.monotonic() + 60
        while not self.leases.collect(time.monotonic()):
            assert time.monotonic() < deadline, "the lease has not ended"
            self.woken.wait(0.05)
        (outcome,) = self.leases.outcomes
        return outcome


@pytest.fixture
def held() -> Iterator[Held]:
    found = Held()
    yield found
    found.holder.close()


def test_blocks_come_in_order_and_a_release_ends_the_lease(held: Held) -> None:
    with held.connected() as channel:
        channel.send(held.question(first=3, count=5))
        assert channel.receive() == Granted(EPOCH, FINGERPRINT, Memory.block_bytes)
        data = bytearray(Memory.block_bytes)
        for number in range(3, 8):
            channel.receive_block(NAMES[number], data)
            assert data[0] == data[-1] == number
        channel.send(Release(EPOCH, held.lease.id))
        assert held.collected() == LeaseOutcome.PULLED


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"epoch": "another"}, Refusal.EPOCH),
        ({"fingerprint": b"another"}, Refusal.FINGERPRINT),
        ({"lease": "another"}, Refusal.LEASE),
        ({"name": NAMES[6]}, Refusal.BLOCKS),
        ({"first": 1}, Refusal.BLOCKS),
        ({"count": 9}, Refusal.BLOCKS),
        ({"count": 0}, Refusal.BLOCKS),
        ({"first": -1, "count": 9}, Refusal.BLOCKS),
        ({"count": 1 << 62}, Refusal.BLOCKS),
    ],
    ids=str,
)
def test_what_is_not_meant_for_it_is_refused(
    held: Held, wrong: dict[str, object], reason: Refusal
) -> None:
    assert held.answer(held.question(**wrong)) == Refused(reason)
    assert held.lease.readers == 0


@pytest.mark.parametrize("first", [Hello(VERSION + 1, bytes(16)), Release(EPOCH, "")])
def test_another_version_is_told_so(held: Held, first: Message) -> None:
    with held.silent() as channel:
        channel.send(first)
        assert channel.receive() == Refused(Refusal.VERSION)


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", struct.pack("<I", 1 << 31), b"\x01\0\0\0\xc1"]
)
def test_whoever_talks_something_else_is_hung_up_on(held: Held, data: bytes) -> None:
    with socket.create_connection(held.address) as connection:
        connection.settimeout(60)
        connection.sendall(data)
        with contextlib.suppress(OSError):  # it may have hung up already
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert held.answer(held.question(epoch="x")) == Refused(Refusal.EPOCH)


def test_a_release_waits_for_a_pull_that_is_under_way(held: Held) -> None:
    with held.connected() as channel:
        channel.send(held.question())
        assert isinstance(channel.receive(), Granted)
        with held.connected() as other:
            other.send(Release(EPOCH, held.lease.id))
            held.woken.wait(60)
            assert held.leases.collect(time.monotonic()) == []
        data = bytearray(Memory.block_bytes)
        for name in NAMES:
            channel.receive_block(name, data)
    assert held.collected() == LeaseOutcome.RELEASED


def test_a_lease_that_ran_out_is_sent_no_further(held: Held) -> None:
    # By a clock that stands: however long all of this takes, it asks in time.
    held.clock, held.lease.deadline = (lambda: 0.0), 0.2
    with held.connected() as channel:
        channel.send(held.question())
        assert isinstance(channel.receive(), Granted)
        assert held.collected() == LeaseOutcome.EXPIRED
        data = bytearray(Memory.block_bytes)
        with pytest.raises(ConnectionError):  # noqa: PT012
            for name in NAMES:
                channel.receive_block(name, data)


def test_a_release_for_another_epoch_ends_nothing(held: Held) -> None:
    with held.connected() as channel:
        channel.send(Release("another", held.lease.id))
        with pytest.raises(ConnectionError):
            channel.receive()  # it has been read, and answered with the end
    assert held.lease.ended is None
