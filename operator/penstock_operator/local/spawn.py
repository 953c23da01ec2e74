"""Starting and ending processes: each in a process group of its own, its output in its own log."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from penstock_operator.local import launch
from penstock_operator.local.home import Home
from penstock_operator.local.ownership import Identity
from penstock_operator.local.store import write_json

STALE_GRACE = 5.0
"""Seconds that processes of a runtime that was killed get to exit by themselves."""


def executable(name: str) -> str:
    """Return the path of one of Penstock's own programs: beside this interpreter, not from PATH.

    A path stays what it is.
    """
    if "/" in name:
        return name
    return str(Path(sys.executable).with_name(name))


def spawn(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start a process that ends when this one does, and append what it prints to `log`."""
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *argv],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=pass_fds,
        )


def end_group(pid: int) -> None:
    """End what is left of the process group that a process of ours led."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def remember(home: Home, pids: Iterable[int]) -> None:
    """Write down which processes are ours, for the day that this one is killed."""
    found = [identity for pid in pids if (identity := Identity.of(pid))]
    write_json(home.processes, [[i.pid, i.started] for i in found])


def end_stale(home: Home) -> int:
    """End the processes that a killed runtime left behind; return how many there were."""
    try:
        recorded = json.loads(home.processes.read_text())
    except FileNotFoundError:
        return 0
    stale = [i for pid, started in recorded if (i := Identity(pid, started)).alive]
    for identity in stale:
        identity.signal(signal.SIGTERM)
    deadline = time.monotonic() + STALE_GRACE
    while any(i.alive for i in stale) and time.monotonic() < deadline:
        time.sleep(0.05)
    for identity in stale:
        if identity.alive:
            end_group(identity.pid)
    home.processes.unlink()
    return len(stale)
