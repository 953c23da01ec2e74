"""What the gateway says of a request in headers. It drops what clients send under these names."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from penstock_contract import headers
from penstock_contract.blocks import MAX_SALT
from penstock_contract.errors import ApiError, ErrorCode

INT32 = 1 << 31


@dataclass(frozen=True)
class Trusted:
    """Priority, deadline, tenant and pace of a request; without a gateway, nothing of it."""

    priority: int | None = None
    """Overrules the body's, which a client writes."""
    deadline: float | None = None
    """Seconds that are left."""
    salt: bytes = b""
    """The tenant's."""
    tpot: float | None = None
    """Seconds between two tokens."""

    @classmethod
    def of(cls, found: Mapping[str, str]) -> "Trusted":
        """Read the headers of a request.

        Raises:
            ApiError: one has no value that it may have.
        """
        priority, deadline = found.get(headers.PRIORITY), found.get(headers.DEADLINE)
        tpot = found.get(headers.TPOT_OBJECTIVE)
        return cls(
            None if priority is None else _priority(priority),
            None if deadline is None else _deadline(deadline),
            _salt(found.get(headers.CACHE_SALT, "")),
            None if tpot is None else _tpot(tpot),
        )

    def salted(self, own: bytes) -> bytes:
        """Return the salt of a request that brings one of its own.

        With both, neither another tenant nor another salt of this tenant gives the same.
        """
        if self.salt and own:
            return hashlib.blake2b(own, key=self.salt).digest()
        return self.salt or own


def _priority(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = INT32
    if not -INT32 <= value < INT32:
        raise _wrong(headers.PRIORITY, "an integer of 32 bits")
    return value


def _deadline(text: str) -> float:
    """Time that is up already is no error of the header: the engine says so at once."""
    return max(_seconds(headers.DEADLINE, text), 1e-6)


def _tpot(text: str) -> float:
    value = _seconds(headers.TPOT_OBJECTIVE, text)
    if value <= 0:
        raise _wrong(headers.TPOT_OBJECTIVE, "above zero")
    return value


def _seconds(header: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = inf
    if not -inf < value < inf:
        raise _wrong(header, "a number of seconds")
    return value


def _salt(text: str) -> bytes:
    salt = text.encode()
    if len(salt) > MAX_SALT:
        raise _wrong(headers.CACHE_SALT, f"at most {MAX_SALT} bytes")
    return salt


def _wrong(header: str, must: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{header} must be {must}", param=header)
