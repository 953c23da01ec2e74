"""TCP ports of this machine: a free one, and who holds a taken one."""

import os
import re
import socket
from collections.abc import Container
from pathlib import Path

LISTENING = "0A"
"""TCP_LISTEN, as /proc/net/tcp writes it."""


def free_port(avoid: Container[int] = ()) -> int:
    """Return a port of 127.0.0.1 that nobody listens on right now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in avoid:
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def holder(port: int) -> str | None:
    """Return `name (pid N)` of the process that listens on a port, as far as we may see it."""
    inodes = _listening_inodes(port)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            links = {os.readlink(entry.path) for entry in os.scandir(folder / "fd")}
            if any(f"socket:[{inode}]" in links for inode in inodes):
                return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    """Return the socket inodes that listen on a port, over IPv4 and IPv6."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            for row in table.read_text().splitlines()[1:]:
                fields = re.split(r"\s+", row.strip())
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found
