"""HTTP to this machine's own processes, where nobody has a certificate and no proxy is in between.

To load the certificates that httpx trusts takes it far longer than a request here, and tests poll.
"""

import ssl
from typing import Any

import httpx

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody: what should have been plain and is not is refused."""


def get(url: str, **options: Any) -> httpx.Response:
    """Ask once."""
    return httpx.get(url, verify=NO_CERTIFICATES, trust_env=False, **options)


def client(url: str = "", **options: Any) -> httpx.AsyncClient:
    """Return a client; paths are those of the URL."""
    return httpx.AsyncClient(base_url=url, verify=NO_CERTIFICATES, trust_env=False, **options)
