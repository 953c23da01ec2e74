"""Sealed tickets by which gateway and batch service tell each other for whom a request is made.

The gateway knows its callers by their keys and hands `/v1/files` and `/v1/batches` on; the batch
service later sends the requests of a batch to the gateway, when the key is long gone. No key is
kept for that: both share a token, and say the tenant's name with an HMAC (RFC 2104) under it. The
token itself never travels, a ticket opens one direction only, and it is stale after five minutes.

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

    def seal(self, towards: Towards, tenant: str, now: float) -> str:
        """Return a ticket.

        Args:
            towards: who opens it.
            tenant: name of the tenant; empty where there are none.
            now: seconds since 1970.

        Raises:
            ValueError: there is no token.
        """
        if not self.values:
            raise ValueError(f"{ENVIRONMENT}: no token is set")
        name = urlsafe_b64encode(tenant.encode()).decode()
        said = f"{towards}.{int(now)}.{name}"
        return f"{said}.{_mac(self.values[0], said)}"

    def open(self, towards: Towards, ticket: str, now: float) -> str | None:
        """Return the tenant that a ticket names; None: it is not valid, here or any more."""
        said, _, mac = ticket.rpartition(".")
        sent = mac.encode("utf-8", "surrogateescape")
        # All of them, so that time tells nothing.
        found = [hmac.compare_digest(sent, _mac(value, said).encode()) for value in self.values]
        if not any(found):
            return None
        to, at, name = said.split(".")
        if to != towards or abs(now - int(at)) > VALID_SECONDS:
            return None
        return urlsafe_b64decode(name).decode()


def _mac(token: str, said: str) -> str:
    message = said.encode("utf-8", "surrogateescape")
    return hmac.new(token.encode("utf-8", "surrogateescape"), message, hashlib.sha256).hexdigest()
