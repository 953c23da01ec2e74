"""What two workers say to each other when one pulls blocks of KV from the other. All of it.

    puller → holder    Hello        the version, and a random number
    holder → puller    Challenge    another one, and a proof that it knows the token; or Refused
    puller → holder    Proof        that it knows the token, too
    puller → holder    Pull         which blocks of which lease, and what it takes the holder for
    holder → puller    Granted      what it is, for the puller to compare; or Refused, and the end
    holder → puller    block, checksum, block, checksum, …    as many as were asked for
    puller → holder    Release      the blocks may go, and the end

A message is a length (u32, little-endian) and so many bytes of msgpack, at most `MAX_MESSAGE`. A
block is the bytes of its keys and values: of the first layer its keys [block_size, kv_heads,
head_dim], its values, then of the next layer; where latents are kept, only these. Both workers have
agreed on shape and type before any block is sent: these are in the fingerprint.

A block has a name (`penstock_contract.blocks`): a chained hash of all tokens up to its end, made
by each worker from the tokens that it knows. So the name of the last block wanted says what the
prompt is, and the checksum of a block covers its name: nothing that belongs to another place or
prompt can pass for it. It is a CRC-32 and finds accidents, not forgeries on the wire: those are
the network's business. Who may ask at all is decided by the token that workers share (`handshake`),
and a lease is a random number that only its request knows.

Instead of a Pull a Release may come alone. Any message that is not expected ends the connection.
Neither side tries twice: what does not come is computed.
"""

import contextlib
import socket
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

import msgspec

Buffer = bytes | bytearray | memoryview

VERSION: Final = 2
MAX_MESSAGE: Final = 1024

_LENGTH = struct.Struct("<I")
_CHECKSUM = struct.Struct("<I")


class Corrupt(Exception):
    """What came is not what this protocol says."""


class Refusal(StrEnum):
    """Why a holder sends nothing."""

    VERSION = "version"
    TOKEN = "token"  # noqa: S105 - a reason, not a token
    """No proof of the token that this worker knows."""
    EPOCH = "epoch"
    """The engine that gave the lease has ended."""
    LEASE = "lease"
    """There is none of this name, or it is over."""
    FINGERPRINT = "fingerprint"
    """Another model, type or layout."""
    BLOCKS = "blocks"
    """It does not cover these blocks, or they are of another prompt."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Begins."""

    version: int
    nonce: bytes


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """Asks for a proof, and gives one."""

    nonce: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, tag="proof"):
    """Gives one."""

    proof: bytes


class Pull(msgspec.Struct, frozen=True, tag="pull"):
    """Asks for blocks `first` to `first + count` of a prompt."""

    epoch: str
    lease: str
    fingerprint: bytes
    first: int
    count: int
    name: bytes
    """Of the last block wanted."""


class Granted(msgspec.Struct, frozen=True, tag="granted"):
    """The blocks follow."""

    epoch: str
    fingerprint: bytes
    block_bytes: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing follows."""

    reason: Refusal


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Nobody needs the lease any more."""

    epoch: str
    lease: str


Message = Hello | Challenge | Proof | Pull | Granted | Refused | Release

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """A connection that speaks the protocol, within bounds of time.

    Every call raises `OSError` when the connection ends, and of these `TimeoutError` when it takes
    too long; what is read, besides, `Corrupt` when it is not what the protocol says.

    Args:
        connection: connected; the channel's own from now on.
        deadline: monotonic seconds at which everything must be done.
        stall: seconds in which at least something must move.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        deadline: float,
        stall: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.deadline = deadline
        self._connection = connection
        self._stall = stall
        self._clock = clock

    def send(self, message: Message) -> None:
        """Send a message."""
        body = _ENCODER.encode(message)
        self._send(_LENGTH.pack(len(body)) + body)

    def receive(self) -> Message:
        """Return the next message."""
        (length,) = _LENGTH.unpack(self._receive(bytearray(_LENGTH.size)))
        if length > MAX_MESSAGE:
            raise Corrupt(f"a message of {length} bytes")
        try:
            return _DECODER.decode(self._receive(bytearray(length)))
        except msgspec.MsgspecError as error:
            raise Corrupt(str(error)) from error

    def send_block(self, name: bytes, pieces: Sequence[Buffer]) -> None:
        """Send a block, given in pieces, and its checksum."""
        self._send(b"".join((*pieces, _CHECKSUM.pack(_checksum(name, pieces)))))

    def receive_block(self, name: bytes, into: bytearray) -> None:
        """Fill `into` with the block of this name."""
        self._receive(into)
        (found,) = _CHECKSUM.unpack(self._receive(bytearray(_CHECKSUM.size)))
        if found != _checksum(name, [into]):
            raise Corrupt("a block's checksum does not match")

    def shut(self) -> None:
        """Let the call that waits in another thread, and all further ones, fail."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait_at_most()
            view = view[self._connection.send(view) :]

    def _receive(self, into: bytearray) -> bytearray:
        view = memoryview(into)
        while view:
            self._wait_at_most()
            count = self._connection.recv_into(view)
            if not count:
                raise ConnectionError("the connection ended")
            view = view[count:]
        return into

    def _wait_at_most(self) -> None:
        left = min(self._stall, self.deadline - self._clock())
        if left <= 0:
            raise TimeoutError("the time is over")
        self._connection.settimeout(left)


def _checksum(name: bytes, pieces: Sequence[Buffer]) -> int:
    value = zlib.crc32(name)
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value
