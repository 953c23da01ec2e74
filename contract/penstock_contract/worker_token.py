"""The token by which workers know who may ask them: gateway and operator, which share a Secret.

NetworkPolicies decide who can reach a worker; the token still holds where a cluster does not
enforce them. Several tokens, separated by commas, are all accepted and the first one is sent, so
that a token can be replaced without an interruption: add the new one behind, then put it first,
then remove the old one.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENVIRONMENT: Final = "PENSTOCK_WORKER_TOKEN"
"""Environment variable of workers, gateways and operators."""
VLLM_ENVIRONMENT: Final = "VLLM_API_KEY"
"""What vLLM calls its own; it knows one token only."""
SECRET_KEY: Final = "token"  # noqa: S105 - the name, not the token
"""Of the Secret."""
HEADER: Final = "authorization"
LEAST: Final = 16
"""Characters of a token."""


@dataclass(frozen=True)
class WorkerTokens:
    """Tokens that a worker accepts; none: whoever reaches it may ask."""

    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "WorkerTokens":
        """Read them from the environment.

        Raises:
            ValueError: one is too short, or cannot be sent in a header.
        """
        text = environment.get(ENVIRONMENT, "")
        values = tuple(value.strip() for value in text.split(",")) if text.strip() else ()
        for value in values:
            if len(value) < LEAST or not value.isascii() or not value.isprintable():
                # The value itself stays out of the message, which goes into logs.
                raise ValueError(f"{ENVIRONMENT}: a token has at least {LEAST} ASCII characters")
        return cls(values)

    def headers(self) -> list[tuple[str, str]]:
        """Return what goes with each request to a worker."""
        return [(HEADER, f"Bearer {self.values[0]}")] if self.values else []

    def admit(self, authorization: str) -> bool:
        """Return whether a request with this header may be served; tells nothing by its time."""
        scheme, _, shown = authorization.partition(" ")
        sent = shown.strip().encode("utf-8", "surrogateescape")
        found = [hmac.compare_digest(sent, value.encode()) for value in self.values]
        return not found or (scheme.lower() == "bearer" and any(found))
