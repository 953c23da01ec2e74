"""Waiting on conditions, never on luck."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 180.0
"""Seconds. A worker starts in five on an idle machine, and in more than sixty on a busy one."""

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within: float = PATIENCE, every: float = 0.1) -> T:
    """Return the first true answer of `look`.

    Raises:
        AssertionError: none came in time; says what was waited for and the last answer.
    """
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}; last seen: {found!r}")
        time.sleep(every)
