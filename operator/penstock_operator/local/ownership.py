"""Who runs: one runtime per state folder, and process ids that cannot be mistaken.

A pid alone may have been given to another process since it was written down; with the start time
that the kernel keeps, it names one process for ever.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from penstock_operator.local.home import Home


@dataclass(frozen=True)
class Identity:
    """One process, for ever. `started` is in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Return the identity of a living process; None when there is none (zombies are dead)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold anything
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Identity.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send it a signal, unless it is gone."""
        if self.alive:
            os.kill(self.pid, number)


class AlreadyRunning(Exception):
    """Another runtime owns the state folder."""


class RuntimeLock:
    """Owning a state folder: an flock, so it ends with its last holder, however that ends.

    It can be handed to a child process as an open file, without a moment in between.
    """

    def __init__(self, file: int) -> None:
        """Go on holding the lock of an open file, in this process' name."""
        self.file = file
        me = Identity.of(os.getpid())
        line = f"{os.getpid()} {me.started if me else 0}"
        os.pwrite(file, f"{line:<47}\n".encode(), 0)  # one size: a reader never sees half of it

    @classmethod
    def take(cls, home: Home) -> "RuntimeLock":
        """Take the lock.

        Raises:
            AlreadyRunning: another process holds it.
        """
        home.make()
        file = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise AlreadyRunning(f"a runtime already runs in {home.root}") from None
        return cls(file)

    def close(self) -> None:
        """Let go of it here; a child that was handed the file still holds it."""
        os.close(self.file)


def owner(home: Home) -> Identity | None:
    """Return the runtime that owns the folder, None when nobody does."""
    try:
        pid, started = home.lock.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    found = Identity(int(pid), int(started))
    return found if found.alive else None
