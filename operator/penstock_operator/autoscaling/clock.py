"""A wall clock that never goes back: times compare across restarts, and no jump is a decision."""

import time
from collections.abc import Callable


def steady_wall_clock() -> Callable[[], float]:
    """Return a clock of seconds since 1970 that goes on evenly, whoever sets the real one."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset
