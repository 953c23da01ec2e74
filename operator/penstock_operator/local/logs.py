"""Reading what processes print, once or as it grows, and bounding how much of it is kept.

A process holds its log open for as long as it lives, so a log that has become too long is copied
and then emptied in place; it is opened for appending, and goes on at the new end.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home

PAUSE = 0.2
LONGEST = 16 << 20
"""Bytes of a log before it begins anew; what was in it is kept until that happens again."""


def older(log: Path) -> Path:
    """Return where a log goes that has become too long."""
    return log.with_name(f"{log.name}.1")


def bound(log: Path, longest: int = LONGEST) -> None:
    """Let a log that has become too long begin anew.

    Lines that are written at that very moment may be lost; on a full disk, all that it had is.
    """
    try:
        if log.stat().st_size <= longest:
            return
    except FileNotFoundError:
        return
    with contextlib.suppress(OSError):
        shutil.copyfile(log, older(log))
    os.truncate(log, 0)


def remove(log: Path) -> None:
    """Remove a log and what it was before."""
    log.unlink(missing_ok=True)
    older(log).unlink(missing_ok=True)


def choose(home: Home, name: str | None) -> list[Path]:
    """Return the logs of the processes whose id is, or begins with, `name`; all without one.

    Raises:
        UserError: there are none.
    """
    found = sorted(home.logs.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
    chosen = [p for p in found if name is None or p.stem == name]
    if name and not chosen:
        chosen = [p for p in found if p.stem.startswith(name.replace("/", "-"))]
    if not chosen:
        known = ", ".join(sorted(path.stem for path in found)) or "none"
        raise UserError(f"there is no log of {name or 'any process'}; known: {known}")
    return chosen


def lines(logs: list[Path], *, follow: Callable[[], bool]) -> Iterator[str]:
    """Yield lines, with the process' name in front when there are several logs.

    Goes on for as long as `follow()` holds; a last line without its end is yielded at the end.
    """
    offsets = dict.fromkeys(logs, 0)
    while True:
        again = follow()
        for log in logs:
            prefix = f"[{log.stem}] " if len(logs) > 1 else ""
            text, offsets[log] = _grown(log, offsets[log], partial=not again)
            yield from (prefix + line for line in text.splitlines())
        if not again:
            return
        time.sleep(PAUSE)


def _grown(log: Path, offset: int, *, partial: bool) -> tuple[str, int]:
    """Return the whole lines that a log has beyond an offset, and the offset after them."""
    rest = b""
    try:
        if log.stat().st_size < offset:  # it has begun anew
            rest, offset = _beyond(older(log), offset) if older(log).exists() else b"", 0
        data = _beyond(log, offset)
    except FileNotFoundError:  # an old log that was pruned
        return "", offset
    if not partial:
        data = data[: data.rfind(b"\n") + 1]
    return (rest + data).decode(errors="replace"), offset + len(data)


def _beyond(log: Path, offset: int) -> bytes:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read()
