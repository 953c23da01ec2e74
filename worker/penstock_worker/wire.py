"""Framing of messages on the socket between server and engine: u32 little-endian length, msgpack.

The blocking side is the engine's, the incremental decoder is for the server's event loop.
"""

import socket
import struct
from typing import Generic, TypeVar

import msgspec

from penstock_worker.messages import Command, Event

UNLIMITED = 2**32 - 1
"""As much as a length can say."""

_LENGTH = struct.Struct("<I")
_ENCODER = msgspec.msgpack.Encoder()

T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as it travels."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


class Decoder(Generic[T]):
    """Turns a byte stream, cut anywhere, into messages.

    Args:
        kind: of messages.
        limit: bytes that one of them may have.
    """

    def __init__(self, kind: type[T], limit: int = UNLIMITED) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Return the messages that are complete after `data`.

        Raises:
            msgspec.DecodeError: the peer sent something that is not a message, or too long.
        """
        self._buffer += data
        messages: list[T] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._limit:
                raise msgspec.DecodeError(f"a message of {length} bytes")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decoder.decode(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return messages


def command_decoder() -> Decoder[Command]:
    """Return a decoder of what the server sends."""
    return Decoder(Command)  # type: ignore[arg-type]


def event_decoder() -> Decoder[Event]:
    """Return a decoder of what the engine sends."""
    return Decoder(Event)  # type: ignore[arg-type]


def receive(connection: socket.socket, decoder: Decoder[T]) -> list[T]:
    """Block until at least one message is there; an empty list means that the peer has gone."""
    while True:
        data = connection.recv(1 << 16)
        if not data:
            return []
        messages = decoder.feed(data)
        if messages:
            return messages
