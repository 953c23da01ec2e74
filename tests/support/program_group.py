"""Programs that start others, which end with them however they end themselves."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def finished(
    command: Sequence[str | Path], within: float = 800.0
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return its exit status and what it wrote.

    Raises:
        subprocess.TimeoutExpired: it took longer than `within` seconds.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=within)
        finally:  # also when pytest's own timeout ends the test
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
