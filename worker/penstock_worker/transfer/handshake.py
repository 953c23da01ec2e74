"""How two workers find out that both know the worker token, before they say anything else.

Each proves it by a MAC over both sides' random numbers, so the token is never on the wire and no
proof serves twice. The holder proves it, too: blocks from a stranger would become wrong answers.
Without a token a worker asks for no proof; one that has a token and one that has none do not deal
with each other.

With several tokens, as while one is replaced, the first one proves and all are accepted.
"""

import hmac
import secrets
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.transfer.protocol import (
    VERSION,
    Challenge,
    Channel,
    Corrupt,
    Hello,
    Message,
    Proof,
    Refusal,
    Refused,
)

HOLDER: Final = b"penstock kv transfer: holder"
PULLER: Final = b"penstock kv transfer: puller"
"""What a proof is of: none can pass for one of another kind."""

NONCE_BYTES: Final = 16

Random = Callable[[int], bytes]


class StrangerError(Exception):
    """The other worker does not know the token."""


def prove(tokens: WorkerTokens, role: bytes, puller: bytes, holder: bytes) -> bytes:
    """Return a proof for these random numbers; nothing without a token."""
    return _mac(tokens.values[0], role, puller, holder) if tokens.values else b""


def proves(tokens: WorkerTokens, found: bytes, role: bytes, puller: bytes, holder: bytes) -> bool:
    """Return whether a proof is right; takes as long whichever token, or none, it was made with."""
    matches = [
        hmac.compare_digest(found, _mac(token, role, puller, holder)) for token in tokens.values
    ]
    return not matches or any(matches)


def introduce(
    channel: Channel, tokens: WorkerTokens, random: Random = secrets.token_bytes
) -> Refusal | None:
    """Begin a conversation with a holder; return why it wants none.

    Raises:
        StrangerError: the holder does not know the token.
        Corrupt: what came is not what the protocol says.
        OSError: the connection ended, or took too long.
    """
    own = random(NONCE_BYTES)
    channel.send(Hello(VERSION, own))
    match channel.receive():
        case Challenge(nonce, proof):
            if not proves(tokens, proof, HOLDER, own, nonce):
                raise StrangerError
            channel.send(Proof(prove(tokens, PULLER, own, nonce)))
            return None
        case Refused(reason):
            return reason
    raise Corrupt("neither a challenge nor a refusal")


def admit(
    channel: Channel, tokens: WorkerTokens, random: Random = secrets.token_bytes
) -> Message | Refusal:
    """Let somebody begin a conversation; return what is wanted, or why it gets nothing.

    Raises:
        Corrupt: what came is not what the protocol says.
        OSError: the connection ended, or took too long.
    """
    match channel.receive():
        case Hello(version, nonce):
            if version != VERSION:
                return Refusal.VERSION
        case _:
            return Refusal.VERSION
    if len(nonce) != NONCE_BYTES:
        raise Corrupt("a random number of another length")
    own = random(NONCE_BYTES)
    channel.send(Challenge(own, prove(tokens, HOLDER, nonce, own)))
    match channel.receive():
        case Proof(proof):
            known = proves(tokens, proof, PULLER, nonce, own)
            return channel.receive() if known else Refusal.TOKEN
    raise Corrupt("no proof")


def _mac(token: str, role: bytes, puller: bytes, holder: bytes) -> bytes:
    # All parts but the role have one length, and no role begins another: nothing is ambiguous.
    return hmac.digest(token.encode(), role + puller + holder, sha256)
