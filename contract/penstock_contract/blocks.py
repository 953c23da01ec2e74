"""Chained hashes of KV blocks: the names under which gateway and workers speak of cached prefixes.

    h_0 = blake2b-128(key=salt, SEED ‖ tokens_0)
    h_i = blake2b-128(key=salt, h_{i-1} ‖ tokens_i)

over *full* blocks of `block_size` token ids, each id four bytes little-endian. Equal hashes mean
equal token prefixes, so a block is found without its predecessors. The hash is cryptographic
because tenants choose the tokens: with a weak one, a tenant could craft a prefix that collides
with another's and read its KV. The salt keeps tenants' caches apart (no timing channel).
Changing anything here changes every name; golden vectors in the tests hold it still.
"""

import hashlib
from array import array
from collections.abc import Sequence
from sys import byteorder

DIGEST_SIZE = 16
"""Bytes of a block hash."""

SEED = bytes(DIGEST_SIZE)
"""Parent of the first block."""

MAX_SALT = hashlib.blake2b.MAX_KEY_SIZE
"""Longest salt in bytes (64)."""


def block_hash(parent: bytes, tokens: Sequence[int], salt: bytes = b"") -> bytes:
    """Return the 16-byte hash of one full block, given its parent's hash (`SEED` for the first).

    Raises:
        OverflowError: a token id is outside 0 … 2³²−1.
        ValueError: the salt is longer than `MAX_SALT` bytes.
    """
    words = array("I", tokens)
    if byteorder == "big":
        words.byteswap()
    return hashlib.blake2b(parent + words.tobytes(), digest_size=DIGEST_SIZE, key=salt).digest()


def adapter_salt(adapter: str, salt: bytes = b"", version: bytes = b"") -> bytes:
    """Return the salt of blocks that an adapter computed; the base model's is left as it is.

    An adapter counts by its name, so one base model's adapters share no blocks, and by the digest
    of its files: what is loaded later under the same name does not find the blocks of the former.
    """
    if not adapter:
        return salt
    return hashlib.blake2b(version + adapter.encode(), key=salt, person=b"lora").digest()


def block_hashes(tokens: Sequence[int], block_size: int, salt: bytes = b"") -> list[bytes]:
    """Return the hashes of all full blocks of `tokens`; a trailing partial block has none."""
    hashes: list[bytes] = []
    parent = SEED
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = block_hash(parent, tokens[start : start + block_size], salt)
        hashes.append(parent)
    return hashes
