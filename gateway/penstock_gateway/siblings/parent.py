"""The parent of a gateway's processes: starts them, starts them again, and ends with them.

It serves nothing and runs no event loop, so that at any time it can fork a process as clean as the
first one was.
"""

import gc
import logging
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from penstock_gateway.admission.processes import ProcessIndex
from penstock_gateway.fleet.backoff import pause
from penstock_gateway.siblings.account_store import AccountStore

log = logging.getLogger("penstock.gateway.processes")

STABLE_SECONDS: Final = 60.0
"""A process that lived for so long begins with the shortest pause again."""
HUNG_SECONDS: Final = 30.0
"""Without an account; a process that has an event loop to leave one leaves it every second."""
LOOK_SECONDS: Final = 5.0
"""Between two looks for processes that hang."""
_SIGNALS: Final = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


class Origin(NamedTuple):
    """What a process gets from its parent."""

    process: ProcessIndex
    folder: Path
    alive: int
    """A file descriptor that ends with the parent."""


@dataclass
class _Seat:
    """The place of one process, whoever has it."""

    number: int
    pid: int = 0
    """0: nobody."""
    since: float = 0.0
    again_at: float = 0.0
    """When it is to be taken."""
    failures: int = 0
    hung: bool = False


@dataclass
class Parent:
    """All processes of a gateway.

    Args:
        processes: how many there are.

    Raises:
        OSError: there is no place for files.
    """

    processes: int
    _seats: list[_Seat] = field(init=False)
    _stopping: bool = False
    _failed: bool = False

    def __post_init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-gateway-", dir=_fast_folder()))
        self._store = AccountStore(self._folder)
        self._seats = [_Seat(number) for number in range(self.processes)]
        self._alive, self._alive_end = os.pipe()

    def run(self) -> Origin | int:
        """Return in each process what it is; in the parent, when all have ended, an exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.freeze()  # what nobody looks at again stays shared memory
        try:
            while True:
                origin = self._take_seats()
                if origin is not None:
                    return origin
                if not any(seat.pid or not self._stopping for seat in self._seats):
                    shutil.rmtree(self._folder, ignore_errors=True)
                    return int(self._failed)
                self._wait()
        except BaseException:
            self._forward(signal.SIGTERM)
            raise

    def _take_seats(self) -> Origin | None:
        """Start who is due; return what it is in the process that was started."""
        now = time.monotonic()
        for seat in self._seats:
            if seat.pid or self._stopping or now < seat.again_at:
                continue
            seat.pid, seat.since = os.fork(), now
            if not seat.pid:
                return self._begin(seat.number)
        return None

    def _begin(self, number: int) -> Origin:
        """Become one of the processes."""
        os.setpgid(0, 0)  # a terminal's Ctrl-C is the parent's to pass on
        os.close(self._alive_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return Origin(ProcessIndex(number, self.processes), self._folder, self._alive)

    def _wait(self) -> None:
        """Wait for a signal, or until somebody is due or looked after."""
        now = time.monotonic()
        due = [seat.again_at - now for seat in self._seats if not seat.pid and not self._stopping]
        found = signal.sigtimedwait(_SIGNALS, max(0.0, min([LOOK_SECONDS, *due])))
        if found is None:
            self._end_hung()
        elif found.si_signo != signal.SIGCHLD:
            self._stopping = True
            self._forward(signal.Signals(found.si_signo))
        self._reap()

    def _forward(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid:
                os.kill(seat.pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for seat in self._seats:
                if seat.pid == pid:
                    self._ended(seat, os.waitstatus_to_exitcode(status))

    def _ended(self, seat: _Seat, code: int) -> None:
        """A process has ended: as it should, or to be started again."""
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        pid, seat.pid, seat.hung = seat.pid, 0, False
        if self._stopping:
            self._failed = self._failed or code not in (0, -signal.SIGTERM)
            return
        if self._store.put_at(seat.number) is None and code > 0:
            log.error("process %d could not begin: %s", seat.number, how)
            self._stopping = self._failed = True
            self._forward(signal.SIGTERM)
            return
        now = time.monotonic()
        seat.failures = 1 if now - seat.since > STABLE_SECONDS else seat.failures + 1
        wait = pause(seat.failures, random.random())
        seat.again_at = now + wait
        log.error("process %d (pid %d) ended: %s; again in %.1f s", seat.number, pid, how, wait)

    def _end_hung(self) -> None:
        """Kill who has not left an account for long, and not at the look before either."""
        now = time.time()
        for seat in self._seats:
            at = self._store.put_at(seat.number)
            hangs = bool(seat.pid) and at is not None and now - at > HUNG_SECONDS
            if hangs and seat.hung and not self._stopping:
                log.error("process %d (pid %d) hangs and is killed", seat.number, seat.pid)
                os.kill(seat.pid, signal.SIGKILL)
            seat.hung = hangs


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for `join`, and that nobody can connect to.

    Raises:
        OSError: somebody listens there.
    """
    if port:
        with _socket(host, shared=False) as probe:
            probe.bind((host, port))
    found = _socket(host, shared=True)
    found.bind((host, port))
    return found


def join(reserved: socket.socket) -> socket.socket:
    """Return a socket on a reserved port, to listen beside those of the other processes."""
    host, port = reserved.getsockname()[:2]
    found = _socket(host, shared=True)
    found.bind((host, port))
    return found


def _socket(host: str, *, shared: bool) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    return found


def _fast_folder() -> str | None:
    """Return where files are kept in memory, if that is at hand."""
    return str(_MEMORY) if os.access(_MEMORY, os.W_OK | os.X_OK) else None
