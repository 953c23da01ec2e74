"""Lets the kernel find out that nobody is at the other end of a connection any more.

One flow alone can be lost, as when a node forgets what it knew of it. Its worker is well, its other
streams go on, and a long silence of one may be a long prompt. Left alone, a request on such a
connection would wait for a quarter of an hour until the kernel gives up, or for ever.
"""

import socket
from typing import Any, Final

IDLE_SECONDS: Final = 10
"""Without a packet, until the other side is asked for one."""
EVERY_SECONDS: Final = 5
"""Between two such questions."""
LOST_SECONDS: Final = 20
"""Without an acknowledgement of these, or of what was sent; then the connection is over."""

# macOS has no TCP_USER_TIMEOUT, and calls the first of the others by another name.
_OPTIONS: Final = {
    "TCP_KEEPIDLE": IDLE_SECONDS,
    "TCP_KEEPINTVL": EVERY_SECONDS,
    "TCP_KEEPCNT": (LOST_SECONDS - IDLE_SECONDS) // EVERY_SECONDS,
    "TCP_USER_TIMEOUT": LOST_SECONDS * 1000,
}


def keep_alive(connection: Any) -> None:
    """Have a connection's other end looked after; its kernel answers, however busy a worker is."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
