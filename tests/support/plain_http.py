"""HTTP to this machine's own processes, where nobody has a certificate and no proxy is in between.

To load the certificates that httpx trusts takes it far longer than a request here, and tests poll.
How long an answer takes says how busy the machine is, so all wait longer than httpx would.
"""

import ssl
from typing import Any

import httpx
from waiting import PATIENCE

NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody: what should have been plain and is not is refused."""
_PLAIN: dict[str, Any] = {"verify": NO_CERTIFICATES, "trust_env": False, "timeout": PATIENCE}


def get(url: str, **options: Any) -> httpx.Response:
    """Ask once."""
    return httpx.get(url, **_PLAIN | options)


def post(url: str, **options: Any) -> httpx.Response:
    """Send once."""
    return httpx.post(url, **_PLAIN | options)


def put(url: str, **options: Any) -> httpx.Response:
    """Put once."""
    return httpx.put(url, **_PLAIN | options)


def delete(url: str, **options: Any) -> httpx.Response:
    """Delete once."""
    return httpx.delete(url, **_PLAIN | options)


def client(url: str = "", **options: Any) -> httpx.AsyncClient:
    """Return a client; paths are those of the URL."""
    return httpx.AsyncClient(base_url=url, **_PLAIN | options)
