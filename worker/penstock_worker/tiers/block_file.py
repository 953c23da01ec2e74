"""How one block lies in a file, so that nothing but that block can ever be read from it. Pure.

    magic, version, fingerprint, name, length of the KV | KV | checksum

The fingerprint says what the bytes mean (model, type, layout), the name which tokens they are of,
tenant and adapter included (`penstock_contract.blocks`). The checksum covers all before it: a file
that was torn, cut, changed or renamed is no block. It is a BLAKE2b and finds accidents; whoever may
write to the folder can forge, and is trusted.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

from penstock_worker.transfer.memory import Buffer

FINGERPRINT_BYTES: Final = 32
CHECKSUM_BYTES: Final = 16
_MAGIC: Final = b"PSKV"
_VERSION: Final = 1
_HEADER = struct.Struct("<4sI32s16sQ")
OVERHEAD: Final = _HEADER.size + CHECKSUM_BYTES
"""Bytes of a file that are not KV."""


def header(fingerprint: bytes, name: bytes, length: int) -> bytes:
    """Return what stands before `length` bytes of KV."""
    return _HEADER.pack(_MAGIC, _VERSION, fingerprint, name, length)


def checksum(pieces: Iterable[Buffer]) -> bytes:
    """Return what stands behind header and KV, given in pieces."""
    digest = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def kv_of(file: memoryview, fingerprint: bytes, name: bytes) -> memoryview | None:
    """Return the KV in a file's bytes, not a copy; None where they are not this block, whole."""
    length = len(file) - OVERHEAD
    if length < 0 or bytes(file[: _HEADER.size]) != header(fingerprint, name, length):
        return None
    body = file[:-CHECKSUM_BYTES]
    if bytes(file[-CHECKSUM_BYTES:]) != checksum([body]):
        return None
    return body[_HEADER.size :]
