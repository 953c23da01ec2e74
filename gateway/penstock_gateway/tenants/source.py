"""The interface of sources of tenants, the empty one, and the one that reads a file."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import yaml

from penstock_contract.api import Tenant as Manifest
from penstock_gateway.tenants.registry import TenantRegistry, registry_of

log = logging.getLogger("penstock.gateway.tenants")

POLL_SECONDS = 0.2


class TenantSource(Protocol):
    """Tells about every change of the tenants, as an immutable snapshot."""

    async def run(self, changed: Callable[[TenantRegistry], None]) -> None:
        """Call `changed` with each new snapshot, until cancelled."""


class NoTenants:
    """There are none, and never will be."""

    async def run(self, changed: Callable[[TenantRegistry], None]) -> None:
        """See `TenantSource.run`."""
        changed(TenantRegistry())


class TenantFile:
    """Reads a YAML file with Tenants whenever it was replaced.

    A missing or damaged file changes nothing: the last good snapshot goes on. In particular it
    never opens a gateway to everyone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._complained = ""

    async def run(self, changed: Callable[[TenantRegistry], None]) -> None:
        """See `TenantSource.run`."""
        while True:
            found = self.poll()
            if found is not None:
                changed(found)
            await asyncio.sleep(POLL_SECONDS)

    def poll(self) -> TenantRegistry | None:
        """Return the tenants if the file was replaced since the last call."""
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._seen:
                return None
            documents = [d for d in yaml.safe_load_all(self._path.read_text()) if d is not None]
            manifests = [Manifest.model_validate(document) for document in documents]
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            self._complain(f"{self._path}: {error}")
            return None
        self._seen, self._complained = identity, ""
        return registry_of(manifests, {})

    def _complain(self, problem: str) -> None:
        if problem != self._complained:
            log.warning("keeping the last tenants: %s", problem)
            self._complained = problem
