"""API keys of tenants: how they are made, and the hash by which they are known.

A key is 192 random bits, so a plain SHA-256 says nothing about it: there is no dictionary to try. A
slow password hash would only let anyone who sends wrong keys use up the gateway's processor.
"""

import hashlib
import re
from typing import Final

RANDOM_BYTES: Final = 24
"""Of a new key."""
HASH_PATTERN: Final = r"^[0-9a-f]{64}$"
"""A SHA-256 in lower-case hexadecimal digits."""


def new_key(random: bytes) -> str:
    """Return a key made of `RANDOM_BYTES` random bytes.

    Raises:
        ValueError: there are fewer.
    """
    if len(random) < RANDOM_BYTES:
        raise ValueError(f"a key takes {RANDOM_BYTES} random bytes, not {len(random)}")
    return f"sk-{random.hex()}"


def hash_of(key: str) -> str:
    """Return what is stored instead of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_hash(text: str) -> bool:
    """Return whether a text can be what `hash_of` returned."""
    return re.fullmatch(HASH_PATTERN, text) is not None
