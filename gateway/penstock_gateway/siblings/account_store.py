"""Where each process leaves what it has counted, for its siblings and for who comes after it.

A file per process in the gateway's private folder, replaced as a whole: whoever reads it gets an
account of one moment, whatever becomes of the process.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from penstock_contract.fleet import GatewayWorkers
from penstock_gateway.instruments import Series

log = logging.getLogger("penstock.gateway.siblings")


class Account(BaseModel):
    """What a process has counted, and what was counted in its place before."""

    metrics: Series = {}
    workers: GatewayWorkers = GatewayWorkers()


class AccountStore:
    """The accounts of all processes.

    Args:
        folder: private to the gateway.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, number: int, account: Account) -> None:
        """Leave a process's account; where that cannot be, its last one, as a sign of life."""
        path = self._path(number)
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(account.model_dump_json())
            fresh.replace(path)
        except OSError as error:
            log.warning("%s: %s", path, error.strerror)
            with suppress(OSError):
                os.utime(path)

    def get(self, number: int) -> Account | None:
        """Return a process's last account; None: it has not left any yet."""
        try:
            return Account.model_validate_json(self._path(number).read_text())
        except FileNotFoundError:
            return None

    def put_at(self, number: int) -> float | None:
        """Return when a process left its last account, in seconds of the wall clock."""
        try:
            return self._path(number).stat().st_mtime
        except FileNotFoundError:
            return None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.json"
