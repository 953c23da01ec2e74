"""The interface of fleet sources, and the one that reads the local runtime's file."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock_contract.fleet import Fleet

log = logging.getLogger("penstock.gateway.fleet")

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class FleetHealth:
    """What is to be told of a source beside its snapshots."""

    stale: bool = False
    """It cannot be followed now: the last snapshot goes on serving."""
    name_conflicts: int = 0
    """Served names that several InferenceDeployments ask for."""


class FleetSource(Protocol):
    """Tells about every change of the fleet, as an immutable snapshot."""

    async def run(self, changed: Callable[[Fleet], None]) -> None:
        """Call `changed` with each new snapshot, until cancelled."""


class FleetFile:
    """Reads a fleet file whenever it was replaced.

    A missing or damaged file changes nothing: the last good snapshot goes on serving.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._complained = ""

    async def run(self, changed: Callable[[Fleet], None]) -> None:
        """See `FleetSource.run`."""
        while True:
            fleet = self.poll()
            if fleet is not None:
                changed(fleet)
            await asyncio.sleep(POLL_SECONDS)

    def poll(self) -> Fleet | None:
        """Return the fleet if the file was replaced since the last call."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._seen:
                return None
            fleet = Fleet.read(self._path)
        except (OSError, ValueError) as error:  # not UTF-8, not JSON, not a fleet
            self._complain(f"{self._path}: {error}")
            return None
        self._seen = identity
        self._complained = ""
        return fleet

    def _complain(self, problem: str) -> None:
        if problem != self._complained:
            log.warning("keeping the last fleet: %s", problem)
            self._complained = problem
