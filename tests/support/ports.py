"""Ports for servers that are told where to listen, from where nobody else is given one.

Who binds to port 0 and closes it again is told a port that the kernel may give to any connection
or server before the process that is meant has started. These lie below what kernels give out, and
none is given twice.
"""

import itertools
import os
import random
import socket

_FIRST, _LAST = 22_500, 29_999
"""Above well-known servers, below Linux' 32768 and the node ports of Kubernetes."""
_start = random.Random(f"{os.getpid()} {os.urandom(8).hex()}").randint(_FIRST, _LAST)
_candidates = itertools.cycle([*range(_start, _LAST + 1), *range(_FIRST, _start)])


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of so many such ports in a row."""
    found: list[int] = []
    for port in itertools.islice(_candidates, 2 * (_LAST + 1 - _FIRST)):
        follows = not found or port == found[-1] + 1
        found = [*(found if follows else []), port] if _is_free(port) else []
        if len(found) == count:
            return found[0]
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
