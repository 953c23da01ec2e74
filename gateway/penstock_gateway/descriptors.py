"""How many connections fit into the file descriptors that this process may have."""

import logging
import resource
from typing import Final

log = logging.getLogger("penstock.gateway")

DEFAULT: Final = 8192
"""Connections of clients, where nobody says how many."""
EACH: Final = 2
"""File descriptors of a client: its own connection, and one to the worker that answers."""
RESERVED: Final = 64
"""For the log, the fleet's source, and asking workers how they are."""
ENOUGH: Final = 1 << 20
"""More are not asked for, even where there is no limit."""


def raised_limit() -> int:
    """Raise the soft limit as far as the hard one allows; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ENOUGH if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(wanted: int | None, limit: int) -> int:
    """Return how many clients may be connected.

    Args:
        wanted: by who started the gateway; None leaves it to what there is.
        limit: file descriptors that this process may have.

    Raises:
        ValueError: so many do not fit.
    """
    room = max(0, limit - RESERVED) // EACH
    if wanted is None and room < DEFAULT:
        log.warning("room for %d connections only: RLIMIT_NOFILE is %d", room, limit)
    found = min(DEFAULT, room) if wanted is None else wanted
    if not 0 < found <= room:
        most = f"RLIMIT_NOFILE of {limit} has room for {room}"
        raise ValueError(f"{found} connections: {most}, two for each client and {RESERVED} more")
    return found
