"""How a rank of another node begins its connection to rank 0.

    rank → rank 0    Hello        a random number
    rank 0 → rank    Challenge    another one, and a proof that it knows the worker token
    rank → rank 0    Join         the same proof; which rank it is, and its node's terms
    rank 0 → rank    Parked       … and again and again, until all others are there
    rank 0 → rank    Welcome      where the ranks meet; what follows is `messages`

Or Refused, from either side, and the end. Proofs are MACs over both random numbers, as between
workers that hand KV over (`transfer.handshake`): the token is never on the wire, and no proof
serves twice or for anything else. Messages are msgpack, framed, and short.
"""

import contextlib
import secrets
import socket
import struct
import time
from typing import Final

import msgspec

from penstock_contract.worker_token import ENVIRONMENT, WorkerTokens
from penstock_worker.tensor_parallel.rank_config import Meeting
from penstock_worker.tensor_parallel.terms import Terms, difference
from penstock_worker.transfer.handshake import NONCE_BYTES, prove, proves
from penstock_worker.wire import encode

LEADER: Final = b"penstock group: leader"
FOLLOWER: Final = b"penstock group: follower"
"""What a proof is of: none can pass for one of another kind."""

JOINING_SECONDS = 10.0
"""For all of it, but for being parked."""
MAX_MESSAGE = 4096

STRANGER: Final = f"it does not know the worker token of this node ({ENVIRONMENT})"


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Begins."""

    nonce: bytes


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """Asks for a proof, and gives one."""

    nonce: bytes
    proof: bytes


class Join(msgspec.Struct, frozen=True, tag="join"):
    """Gives one, and says who asks."""

    proof: bytes
    rank: int
    terms: Terms


class Parked(msgspec.Struct, frozen=True, tag="parked"):
    """Others are still to come."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """All are there."""

    meeting: Meeting


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing follows."""

    reason: str


Message = Hello | Challenge | Join | Parked | Welcome | Refused

_LENGTH = struct.Struct("<I")
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class RefusedError(Exception):
    """One of the two does not want the other, for this reason."""


def introduce(connection: socket.socket, tokens: WorkerTokens, rank: int, own: Terms) -> None:
    """Ask rank 0 to let a rank join; it is parked then.

    Raises:
        RefusedError: it does not, or does not know the token.
        OSError: the connection ended, or took too long.
    """
    deadline = time.monotonic() + JOINING_SECONDS
    nonce = secrets.token_bytes(NONCE_BYTES)
    send(connection, Hello(nonce))
    match hear(connection, deadline):
        case Challenge(theirs, proof) if len(theirs) == NONCE_BYTES:
            if not proves(tokens, proof, LEADER, nonce, theirs):
                refuse(connection, STRANGER)
                raise RefusedError(STRANGER)
            send(connection, Join(prove(tokens, FOLLOWER, nonce, theirs), rank, own))
        case Refused(reason):
            raise RefusedError(reason)
        case _:
            raise RefusedError("it is no node 0: its answer is no challenge")
    heard = hear(connection, deadline)
    if isinstance(heard, Refused):
        raise RefusedError(heard.reason)


def admit(connection: socket.socket, tokens: WorkerTokens, own: Terms, ranks: range) -> int:
    """Let a rank of another node join; return which one it is.

    Args:
        connection: on which it asks.
        tokens: by which nodes know each other.
        own: terms of node 0.
        ranks: that other nodes have.

    Raises:
        RefusedError: it is not wanted, or does not want this node.
        OSError: the connection ended, or took too long.
    """
    deadline = time.monotonic() + JOINING_SECONDS
    match hear(connection, deadline):
        case Hello(theirs) if len(theirs) == NONCE_BYTES:
            nonce = secrets.token_bytes(NONCE_BYTES)
            send(connection, Challenge(nonce, prove(tokens, LEADER, theirs, nonce)))
        case _:
            raise RefusedError("it does not begin as a node does")
    match hear(connection, deadline):
        case Join(proof, rank, terms):
            reason = difference(own, terms)
            if not proves(tokens, proof, FOLLOWER, theirs, nonce):
                reason = STRANGER
            elif not reason and rank not in ranks:
                reason = f"rank {rank} is not one of other nodes"
            if reason:
                refuse(connection, reason)
                raise RefusedError(reason)
            send(connection, Parked())
            return rank
        case Refused(reason):
            raise RefusedError(f"it refuses: {reason}")
    raise RefusedError("it does not go on as a node does")


def send(connection: socket.socket, message: Message) -> None:
    """Send a message.

    Raises:
        OSError: the connection ended, or took too long.
    """
    connection.settimeout(JOINING_SECONDS)
    connection.sendall(encode(message))


def refuse(connection: socket.socket, reason: str) -> None:
    """Tell why nothing follows, if that can still be heard."""
    with contextlib.suppress(OSError):
        send(connection, Refused(reason))


def hear(connection: socket.socket, deadline: float) -> Message:
    """Return the next message, and take nothing of what follows it: that is for another process.

    Raises:
        RefusedError: it is none.
        OSError: the connection ended, or the deadline (monotonic) has passed.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline))
    if length > MAX_MESSAGE:
        raise RefusedError(f"a message of {length} bytes")
    try:
        return _DECODER.decode(_exactly(connection, length, deadline))
    except msgspec.MsgspecError as error:
        raise RefusedError(f"it said what nobody can read: {error}") from error


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        connection.settimeout(left)
        data = connection.recv(count - len(found))
        if not data:
            raise ConnectionError("the connection ended")
        found += data
    return bytes(found)
