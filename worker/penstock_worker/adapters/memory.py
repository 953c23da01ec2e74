"""What an agent was told last, in a file of its pod.

An agent that starts anew beside an engine that serves must not take the worker away until the
operator has come by, which may be away itself.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from penstock_contract.adapters import WantedAdapters

log = logging.getLogger("penstock.adapters")


def recalled(file: Path | None) -> WantedAdapters | None:
    """Return what was told before; None: nothing, or nothing that can be read."""
    if file is None:
        return None
    try:
        return WantedAdapters.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def remember(wanted: WantedAdapters, file: Path | None) -> None:
    """Keep what was told, in one step; without room for it, the next agent is told again."""
    if file is None or recalled(file) == wanted:
        return
    beside = file.with_name(f"{file.name}.new")
    try:
        beside.write_text(wanted.model_dump_json())
        beside.replace(file)
    except OSError as error:
        log.warning("cannot write %s: %s", file, error.strerror or error)
