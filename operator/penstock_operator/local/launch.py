"""Becomes another program, after tying its life to the runtime's: `launch.py PARENT PROGRAM ...`.

A runtime that is killed cannot end its processes, so the kernel does (PR_SET_PDEATHSIG). Setting
that needs code between fork and exec, which is not safe to run in a copy of a Python process; a
fresh interpreter that replaces itself is. It keeps the pid. Uses nothing but the standard library.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program in the arguments."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit("the runtime is gone")
    try:
        os.execv(program[0], program)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
