"""Trying again: networks fail now and then, and a download of hours must outlive that."""

from collections.abc import Callable
from typing import TypeVar

import httpx

from penstock_worker.fetch.remote import FetchError

ATTEMPTS = 6
"""In a row and without progress."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
T = TypeVar("T")


class Transient(Exception):
    """Worth trying again."""


def retry(
    attempt: Callable[[], T], wait: Callable[[float], object], progress: Callable[[], int]
) -> T:
    """Return what an attempt returns, after as many as it takes while there is progress.

    Args:
        attempt: may raise Transient or httpx.RequestError to be tried again.
        wait: called with seconds between attempts.
        progress: anything that differs once something was achieved.

    Raises:
        FetchError: too many attempts achieved nothing.
    """
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except (Transient, httpx.RequestError) as error:
            failures = failures + 1 if progress() == before else 1
            if failures >= ATTEMPTS:
                words = str(error) or type(error).__name__
                raise FetchError(f"gave up after {failures} attempts: {words}") from error
            wait(min(2.0 ** (failures - 1), 30.0))


def refuse_transient(response: httpx.Response) -> None:
    """Raise Transient for an answer that may be another one next time."""
    if response.status_code in TRANSIENT:
        raise Transient(f"{response.url.host} answered {response.status_code}")
