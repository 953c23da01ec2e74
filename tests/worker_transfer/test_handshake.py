"""Workers that hand KV over know the same token, and nobody who listens learns it."""

import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from queue import SimpleQueue

import pytest

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.transfer import handshake
from penstock_worker.transfer.handshake import StrangerError, admit, introduce
from penstock_worker.transfer.protocol import (
    VERSION,
    Challenge,
    Channel,
    Corrupt,
    Hello,
    Message,
    Proof,
    Refusal,
    Release,
)

OLD, NEW = "an-old-worker-token", "a-new-worker-token"
WANTED = Release("epoch", "lease")
NOBODY = WorkerTokens()


class Conversation:
    """A holder in a thread, and the channel of whoever talks to it."""

    def __init__(self, tokens: WorkerTokens, listener: socket.socket) -> None:
        self.heard: SimpleQueue[Message | Refusal | Exception] = SimpleQueue()
        self.connection = socket.create_connection(listener.getsockname())
        self.channel = Channel(self.connection, deadline=time.monotonic() + 30, stall=30)
        other, _ = listener.accept()
        self._holder = Channel(other, deadline=time.monotonic() + 30, stall=30)
        self._thread = threading.Thread(target=self._admit, args=(tokens,))
        self._thread.start()

    def close(self) -> None:
        self.channel.close()
        self._thread.join()

    def _admit(self, tokens: WorkerTokens) -> None:
        with contextlib.closing(self._holder):
            try:
                self.heard.put(admit(self._holder, tokens))
            except (OSError, Corrupt) as error:
                self.heard.put(error)


@contextlib.contextmanager
def talking_to(*tokens: str) -> Iterator[Conversation]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Conversation(WorkerTokens(tokens), listener)
        with contextlib.closing(found):
            yield found


@pytest.mark.parametrize(
    ("holder", "puller"),
    [((), ()), ((NEW,), (NEW,)), ((OLD, NEW), (NEW, OLD)), ((NEW, OLD), (OLD, NEW))],
)
def test_workers_that_share_a_token_talk_also_while_it_is_replaced(
    holder: tuple[str, ...], puller: tuple[str, ...]
) -> None:
    with talking_to(*holder) as there:
        assert introduce(there.channel, WorkerTokens(puller)) is None
        there.channel.send(WANTED)
        assert there.heard.get() == WANTED


@pytest.mark.parametrize("holder", [(), (OLD,)])
def test_a_holder_without_the_token_is_not_believed(holder: tuple[str, ...]) -> None:
    with talking_to(*holder) as there, pytest.raises(StrangerError):
        introduce(there.channel, WorkerTokens((NEW,)))


def test_a_puller_without_a_token_gets_nothing() -> None:
    with talking_to(NEW) as there:
        assert introduce(there.channel, NOBODY) is None  # it asks for no proof and gives none
        there.channel.send(WANTED)
        assert there.heard.get() is Refusal.TOKEN


@pytest.mark.parametrize("repeat", ["another conversation's", "the holder's own"])
def test_no_proof_serves_twice(repeat: str) -> None:
    with talking_to(NEW) as there:
        there.channel.send(Hello(VERSION, bytes(16)))
        first = there.channel.receive()
        assert isinstance(first, Challenge)
    proof = handshake.prove(WorkerTokens((NEW,)), handshake.PULLER, bytes(16), first.nonce)
    with talking_to(NEW) as there:
        there.channel.send(Hello(VERSION, bytes(16)))
        second = there.channel.receive()
        assert isinstance(second, Challenge)
        assert second.nonce != first.nonce
        there.channel.send(Proof(proof if repeat.startswith("another") else second.proof))
        assert there.heard.get() is Refusal.TOKEN


def test_a_proof_is_a_mac_over_both_random_numbers() -> None:
    proof = handshake.prove(WorkerTokens((NEW, OLD)), handshake.PULLER, b"p" * 16, b"h" * 16)
    said = b"penstock kv transfer: puller" + b"p" * 16 + b"h" * 16
    assert proof == hmac.digest(NEW.encode(), said, sha256)


class Tapped(Channel):
    """A channel that keeps what is sent."""

    sent = b""

    def _send(self, data: bytes) -> None:
        self.sent += data
        super()._send(data)


def test_the_token_is_not_on_the_wire() -> None:
    with talking_to(NEW) as there:
        tapped = Tapped(there.connection, deadline=time.monotonic() + 30, stall=30)
        assert introduce(tapped, WorkerTokens((NEW,))) is None
        tapped.send(WANTED)
        assert there.heard.get() == WANTED
        assert tapped.sent
        assert NEW.encode() not in tapped.sent


@pytest.mark.parametrize(
    "said", [[WANTED], [Hello(VERSION + 1, bytes(16))], [Hello(1, bytes(16))]], ids=str
)
def test_who_begins_otherwise_speaks_another_version(said: list[Message]) -> None:
    with talking_to(NEW) as there:
        for message in said:
            there.channel.send(message)
        assert there.heard.get() is Refusal.VERSION


def test_a_random_number_of_another_length_is_no_beginning() -> None:
    with talking_to(NEW) as there:
        there.channel.send(Hello(VERSION, b"short"))
        assert isinstance(there.heard.get(), Corrupt)
