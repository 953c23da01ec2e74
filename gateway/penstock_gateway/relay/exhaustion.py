"""When this process itself is out of what a connection takes: descriptors, ports, memory.

None of that is a worker's fault. Whoever put workers aside for it would turn a shortage of its own
into an outage of the whole fleet.
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import Final

from penstock_contract.errors import ApiError, ErrorCode

log = logging.getLogger("penstock.gateway.exhaustion")

LOCAL: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
)
"""Errors of connecting that say nothing of the other side."""
PATIENCE: Final = 5.0
"""Seconds that a request waits until there is enough again."""
EVERY_SECONDS: Final = 0.05
"""Between two tries."""
SAY_EVERY: Final = 10.0
"""Seconds between two lines in the log."""
RETRY_AFTER: Final = 1.0


class StarvedError(ApiError):
    """The gateway cannot connect to anybody now; a client may try again."""

    def __init__(self, what: str) -> None:
        message = f"The gateway cannot connect to a worker now ({what}); try again soon."
        super().__init__(ErrorCode.NO_CAPACITY, message, retry_after=RETRY_AFTER)


class ExhaustionLog:
    """Says in the log now and then what the gateway is out of.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = float("-inf")
        self._unsaid = 0

    def error(self, error: OSError) -> StarvedError:
        """Return what to raise when connecting failed with one of `LOCAL`."""
        what = errno.errorcode.get(error.errno or 0, str(error))
        self._unsaid += 1
        now = self._clock()
        if now - self._said_at >= SAY_EVERY:
            log.warning(
                "%s: %d connections to workers could not be opened: %s",
                *(what, self._unsaid, "this process has too little, see docs/limits.md"),
            )
            self._said_at, self._unsaid = now, 0
        return StarvedError(what)
