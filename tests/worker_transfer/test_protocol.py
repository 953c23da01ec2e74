"""The wire between two workers: what is sent arrives, and nothing else is believed."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.transfer.protocol import (
    MAX_MESSAGE,
    VERSION,
    Challenge,
    Channel,
    Corrupt,
    Granted,
    Hello,
    Message,
    Proof,
    Pull,
    Refusal,
    Refused,
    Release,
)

NAME = bytes(range(16))
MESSAGES: list[Message] = [
    Hello(VERSION, bytes(16)),
    Challenge(bytes(16), bytes(32)),
    Proof(bytes(32)),
    Pull("e" * 16, "l" * 32, bytes(32), 3, 4, NAME),
    Granted("e" * 16, bytes(32), 1 << 21),
    Refused(Refusal.EPOCH),
    Release("e" * 16, "l" * 32),
]


@contextlib.contextmanager
def connected() -> Iterator[tuple[Channel, socket.socket]]:
    """Return a channel and the bare socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    with other, contextlib.closing(patient(connection)) as channel:
        yield channel, other


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    with connected() as found:
        yield found


def patient(connection: socket.socket) -> Channel:
    return Channel(connection, deadline=time.monotonic() + 30, stall=30)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(
    ends: tuple[Channel, socket.socket], message: Message
) -> None:
    patient(ends[1]).send(message)
    assert ends[0].receive() == message


def test_messages_on_the_wire_are_as_recorded(ends: tuple[Channel, socket.socket]) -> None:
    ends[0].send(Release("ab", "cd"))
    body = b"\x83\xa4type\xa7release\xa5epoch\xa2ab\xa5lease\xa2cd"
    assert ends[1].recv(99) == struct.pack("<I", len(body)) + body


def test_blocks_arrive_whole_however_many_pieces_they_are_sent_in(
    ends: tuple[Channel, socket.socket],
) -> None:
    data = bytes(i * 7 % 256 for i in range(300_000))
    pieces = [memoryview(data)[:100_000], memoryview(data)[100_000:]]
    sending = threading.Thread(target=patient(ends[1]).send_block, args=(NAME, pieces))
    sending.start()
    into = bytearray(len(data))
    ends[0].receive_block(NAME, into)
    sending.join()
    assert into == data


def test_a_block_of_another_name_is_not_this_one(ends: tuple[Channel, socket.socket]) -> None:
    patient(ends[1]).send_block(NAME, [bytes(100)])
    with pytest.raises(Corrupt, match="checksum"):
        ends[0].receive_block(NAME[::-1], bytearray(100))


def test_a_long_message_is_refused_before_it_is_read(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].sendall(struct.pack("<I", MAX_MESSAGE + 1))
    with pytest.raises(Corrupt, match="1025 bytes"):
        ends[0].receive()


@given(st.binary(max_size=64))
def test_no_bytes_are_a_message_by_accident(data: bytes) -> None:
    with connected() as (channel, other):
        other.sendall(struct.pack("<I", len(data)) + data)
        with pytest.raises(Corrupt):
            channel.receive()


def test_an_end_amid_a_message_is_an_error(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].sendall(b"\x10\x00")
    ends[1].close()
    with pytest.raises(ConnectionError):
        ends[0].receive()


def test_silence_is_an_error_after_a_while(ends: tuple[Channel, socket.socket]) -> None:
    ends[0]._stall = 0.05
    with pytest.raises(TimeoutError):
        ends[0].receive()


def test_who_takes_nothing_is_not_waited_for(ends: tuple[Channel, socket.socket]) -> None:
    ends[0]._stall = 0.05
    with pytest.raises(TimeoutError):
        ends[0].send_block(NAME, [bytes(64 << 20)])


def test_a_trickle_does_not_outlast_the_deadline(ends: tuple[Channel, socket.socket]) -> None:
    now = iter([0.0, 1.0, 2.0, 3.0])

    def clock() -> float:
        ends[1].sendall(b"\x00")  # a byte comes whenever it looks at the time
        return next(now)

    ends[0].deadline, ends[0]._clock = 2.5, clock
    with pytest.raises(TimeoutError, match="over"):
        ends[0].receive()


def test_a_call_that_waits_ends_when_the_channel_is_shut(
    ends: tuple[Channel, socket.socket],
) -> None:
    threading.Timer(0.05, ends[0].shut).start()
    with pytest.raises(ConnectionError):
        ends[0].receive()
