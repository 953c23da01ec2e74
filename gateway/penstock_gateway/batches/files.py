"""Files of tenants: their contents in a folder, what is known of them in the database.

A path is made of ids that this service has drawn, never of what a client has sent. Contents are on
disk before the database knows of them; what it does not know is deleted at the next start.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from penstock_gateway.batches.batch import ACTIVE
from penstock_gateway.batches.database import Database
from penstock_gateway.batches.page import Page, page_of

PURPOSE: Final = "batch"
OUTPUT: Final = "batch_output"
_UNFINISHED: Final = ".part"
_CONTENT: Final = re.compile(rf"file-[0-9a-f]+({re.escape(_UNFINISHED)})?")


@dataclass(frozen=True)
class File:
    """One file. Times are seconds since 1970."""

    id: str
    tenant: str
    purpose: str
    name: str
    bytes: int
    created: int
    expires: int

    def to_json(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created,
            "expires_at": self.expires,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """All files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def path(self, file_id: str) -> Path:
        """Return where the content of a known file is."""
        return self._database.files / file_id

    @contextmanager
    def written(self, file_id: str) -> Iterator[BinaryIO]:
        """Give out what a content is written to; it is on disk, under its id, when that is left."""
        part = self._database.files / f"{file_id}{_UNFINISHED}"
        try:
            with part.open("wb") as content:
                yield content
                to_disk(content)
            part.rename(self.path(file_id))
            _sync(self._database.files)
        finally:
            part.unlink(missing_ok=True)

    def add(self, file: File, connection: sqlite3.Connection) -> None:
        """Let a file be known whose content is there; again, if it is known."""
        connection.execute(
            "INSERT OR IGNORE INTO files (id, tenant, purpose, name, bytes, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(file.id, file.tenant, file.purpose, file.name, file.bytes),
                *(file.created, file.expires),
            ),
        )

    def put(self, file: File) -> None:
        """Let a file be known whose content is there."""
        with self._database.change() as connection:
            self.add(file, connection)

    def find(self, tenant: str, file_id: str) -> File | None:
        """Return a file of a tenant."""
        with self._database.look() as connection:
            row = connection.execute(
                "SELECT * FROM files WHERE tenant = ? AND id = ?", (tenant, file_id)
            ).fetchone()
        return _file(row) if row else None

    def listed(self, tenant: str, page: Page, purpose: str = "") -> tuple[list[File], bool]:
        """Return files of a tenant, and whether there are more of them."""
        with self._database.look() as connection:
            rows, more = page_of(connection, "files", tenant, page, purpose)
        return [_file(row) for row in rows], more

    def stored(self, tenant: str | None = None) -> tuple[int, int]:
        """Return how many files there are, of a tenant or of all, and their bytes."""
        where, values = ("", ()) if tenant is None else ("WHERE tenant = ?", (tenant,))
        with self._database.look() as connection:
            row = connection.execute(
                f"SELECT count(*), coalesce(sum(bytes), 0) FROM files {where}",  # noqa: S608
                values,
            ).fetchone()
        return int(row[0]), int(row[1])

    def user(self, file_id: str) -> str | None:
        """Return the batch that still needs a file."""
        with self._database.look() as connection:
            row = connection.execute(
                f"SELECT id FROM batches WHERE input_file = ? AND {_ACTIVE}",  # noqa: S608
                (file_id, *ACTIVE),
            ).fetchone()
        return str(row[0]) if row else None

    def delete(self, file_id: str) -> None:
        """Forget a file, then its content."""
        with self._database.change() as connection:
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self.path(file_id).unlink(missing_ok=True)

    def expire(self, now: float) -> int:
        """Delete files whose time is over and that no batch needs; return how many."""
        with self._database.look() as connection:
            rows = connection.execute(
                "SELECT id FROM files WHERE expires <= ? "  # noqa: S608
                f"AND id NOT IN (SELECT input_file FROM batches WHERE {_ACTIVE})",
                (int(now), *ACTIVE),
            ).fetchall()
        for row in rows:
            self.delete(row[0])
        return len(rows)

    def sweep(self) -> None:
        """Delete contents that the database does not know: what a killed process left.

        What else lies in a folder that was named by mistake stays.
        """
        with self._database.look() as connection:
            known = {row[0] for row in connection.execute("SELECT id FROM files")}
        for found in self._database.files.iterdir():
            if _CONTENT.fullmatch(found.name) and found.name not in known:
                found.unlink()


_ACTIVE: Final = f"status IN ({', '.join('?' * len(ACTIVE))})"


def _file(row: sqlite3.Row) -> File:
    return File(**{name: row[name] for name in File.__dataclass_fields__})


def to_disk(content: BinaryIO) -> None:
    """Have what is written on disk; blocks for as long as that takes."""
    content.flush()
    os.fsync(content.fileno())


def _sync(folder: Path) -> None:
    """Have a rename on disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
