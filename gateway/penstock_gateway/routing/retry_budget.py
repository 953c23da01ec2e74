"""Bounds what retries add to the load of workers that are in trouble already. Pure.

As in Finagle: each request earns a share of a retry. A worker that dies is a burst, which the
savings cover; a pool that fails on everything gets a fifth more requests than without retries, not
twice as many. Streams that go on elsewhere are not counted: a worker had to begin each of them.
"""

from typing import Final

SHARE: Final = 0.2
"""Retries that each request earns."""
SAVINGS: Final = 100.0
"""Retries that can be saved up; a gateway starts with them."""


class RetryBudget:
    """What may still be retried.

    Args:
        savings: retries that can be saved up.
    """

    def __init__(self, savings: float = SAVINGS) -> None:
        self._savings = self._left = savings

    def earn(self) -> None:
        """A request has come."""
        self._left = min(self._savings, self._left + SHARE)

    def spend(self) -> bool:
        """Return whether a request may be sent once more."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
