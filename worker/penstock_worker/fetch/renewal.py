"""What is lent for a while: asked for when it is needed, and again before it ends.

Downloads take hours and credentials of cloud identities last one, so every request asks here.
"""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import httpx

from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.retry import Transient

T = TypeVar("T")
MARGIN = timedelta(minutes=5)
"""How long before their end credentials are renewed."""
REFUSED = frozenset({400, 401, 403})
"""Statuses that may mean that credentials have expired."""


@dataclass(frozen=True)
class Lent(Generic[T]):
    """Something that may end."""

    value: T
    until: datetime | None = None
    """When it ends, in UTC; None: it does not by itself."""

    def ends_by(self, moment: datetime) -> bool:
        """Return whether it has ended then."""
        return self.until is not None and self.until <= moment


class Renewed(Generic[T]):
    """Holds what is lent at the moment; may be asked from several threads.

    Args:
        ask: brings a new one; what it raises, whoever needs it gets.
        held: what to begin with; None: the first who needs one asks.
        clock: tells the time, in UTC.
    """

    def __init__(
        self,
        ask: Callable[[], Lent[T]],
        held: Lent[T] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ask = ask
        self._held = held
        self._clock = clock
        self._lock = threading.Lock()

    def current(self) -> T:
        """Return what is valid for some minutes more."""
        with self._lock:
            if self._held is None or self._held.ends_by(self._clock() + MARGIN):
                self._held = self._another(self._held)
            return self._held.value

    def other_than(self, refused: T) -> T:
        """Return another than what was refused: a new one, unless another thread has it already."""
        with self._lock:
            if self._held is None or self._held.value == refused:
                self._held = self._ask()
            return self._held.value

    def _another(self, held: Lent[T] | None) -> Lent[T]:
        try:
            return self._ask()
        except (FetchError, Transient):
            if held is None or held.ends_by(self._clock()):
                raise
            return held  # it serves until its end; the next request asks again


class Authorized(httpx.Auth, Generic[T]):
    """Authorizes each request when it is sent, and once more when its credentials had expired.

    Args:
        lent: where the credentials come from.
        authorize: adds them to a request.
        expired: whether a refusal means that others are needed.
    """

    def __init__(
        self,
        lent: Renewed[T],
        authorize: Callable[[httpx.Request, T], None],
        expired: Callable[[httpx.Response], bool],
    ) -> None:
        self._lent = lent
        self._authorize = authorize
        self._expired = expired

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request, and again if need be."""
        used = self._lent.current()
        self._authorize(request, used)
        response = yield request
        if response.status_code not in REFUSED:
            return
        response.read()  # a refusal is short, and says why; a model must not be read here
        if self._expired(response):
            self._authorize(request, self._lent.other_than(used))
            yield request


def moment(text: str) -> datetime:
    """Return the time that ISO 8601 text names; without a zone, it is UTC.

    Raises:
        ValueError: it names none.
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
