"""Reading what processes print: one log or all of them, once or as they grow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home

PAUSE = 0.2


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
    try:
        with log.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:  # an old log that was pruned
        return "", offset
    if not partial:
        data = data[: data.rfind(b"\n") + 1]
    return data.decode(errors="replace"), offset + len(data)
