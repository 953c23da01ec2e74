"""Sealed tickets by which gateway and batch service tell each other for whom a request is made.

The gateway knows its callers by their keys and hands `/v1/files` and `/v1/batches` on; the batch
service later sends the requests of a batch to the gateway, when the key is long gone. No key is
kept for that: both share a token, and say the tenant's name with an HMAC (RFC 2104) under it. The
token itself never travels. A ticket opens one direction only, for one method, path and, towards the
gateway, body: who sees one can repeat that request and make no other. It is stale after five
minutes.

Several tokens, separated by commas, all open tickets and the first one seals them, so that a token
can be replaced as the workers' can (penstock_contract.worker_token).
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ENVIRONMENT: Final = "PENSTOCK_BATCH_TOKEN"
"""Environment variable of gateways and of the batch service."""
SECRET_KEY: Final = "token"  # noqa: S105 - the name, not the token
"""Of the Secret."""
LEAST: Final = 16
"""Characters of a token."""
VALID_SECONDS: Final = 300.0
"""Of a ticket, either way: clocks differ between nodes."""


class Towards(StrEnum):
    """Who is to open a ticket."""

    BATCHES = "batches"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class Ticket:
    """What a valid ticket says."""

    tenant: str
    """Its name; empty where there are no tenants."""
    work: str
    """What it was made for, as `work` says it."""

    def covers(self, method: str, path: str, body: bytes = b"") -> bool:
        """Return whether it was made for this request."""
        return self.work == work(method, path, body)


@dataclass(frozen=True)
class Seals:
    """The tokens; with none, nothing is opened."""

    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Seals":
        """Read them from the environment.

        Raises:
            ValueError: one is too short.
        """
        text = environment.get(ENVIRONMENT, "")
        values = tuple(value.strip() for value in text.split(",")) if text.strip() else ()
        if any(len(value) < LEAST for value in values):
            # The value itself stays out of the message, which goes into logs.
            raise ValueError(f"{ENVIRONMENT}: a token has at least {LEAST} characters")
        return cls(values)

    def seal(self, towards: Towards, ticket: Ticket, now: float) -> str:
        """Return a ticket as it travels.

        Args:
            towards: who opens it.
            ticket: what it says.
            now: seconds since 1970.

        Raises:
            ValueError: there is no token.
        """
        if not self.values:
            raise ValueError(f"{ENVIRONMENT}: no token is set")
        name = urlsafe_b64encode(ticket.tenant.encode()).decode()
        said = f"{towards}.{int(now)}.{name}.{ticket.work}"
        return f"{said}.{_mac(self.values[0], said)}"

    def open(self, towards: Towards, sealed: str, now: float) -> Ticket | None:
        """Return what a ticket says; None: it is not valid, here or any more."""
        said, _, mac = sealed.rpartition(".")
        sent = mac.encode("utf-8", "surrogateescape")
        # All of them, so that time tells nothing.
        found = [hmac.compare_digest(sent, _mac(value, said).encode()) for value in self.values]
        if not any(found):
            return None
        to, at, name, *made_for = said.split(".")
        if to != towards or abs(now - int(at)) > VALID_SECONDS or len(made_for) != 1:
            return None  # the last: a version before this one has sealed it
        return Ticket(urlsafe_b64decode(name).decode(), made_for[0])


def work(method: str, path: str, body: bytes = b"") -> str:
    """Return what a request is known by: a SHA-256 of its method, path (no query) and body."""
    return hashlib.sha256(
        f"{method} {path}\n".encode("utf-8", "surrogateescape") + body
    ).hexdigest()


def _mac(token: str, said: str) -> str:
    message = said.encode("utf-8", "surrogateescape")
    return hmac.new(token.encode("utf-8", "surrogateescape"), message, hashlib.sha256).hexdigest()
