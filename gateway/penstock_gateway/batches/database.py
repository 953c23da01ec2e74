"""The one database of the service: opened by one process, each change whole or not at all.

SQLite, since it comes with Python and survives kill -9 and power cuts at any point. Its calls block
and are made from threads, one at a time.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    purpose TEXT NOT NULL,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS files_of_tenant ON files (tenant, place);
CREATE TABLE IF NOT EXISTS batches (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    status TEXT NOT NULL,
    input_file TEXT NOT NULL,
    created INTEGER NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    document BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batches_of_tenant ON batches (tenant, place);
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status, place);
CREATE TABLE IF NOT EXISTS requests (
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    ok INTEGER,
    answer BLOB,
    PRIMARY KEY (batch, number)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_of_each_id ON requests (batch, custom_id);
CREATE INDEX IF NOT EXISTS unanswered ON requests (batch, number) WHERE ok IS NULL;
"""
VERSION: Final = 1
"""Of the schema."""


class FolderTakenError(Exception):
    """Another process works in the folder."""


class NewerSchemaError(Exception):
    """A later version of the service has written the folder."""


class Database:
    """A folder with a database and with files, locked for as long as this lives.

    Args:
        folder: made when it is not there.

    Raises:
        FolderTakenError: another process has it.
        NewerSchemaError: this version cannot read it.
        OSError: it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        """The contents of files, each under its id."""
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owned = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._owned)
            raise FolderTakenError(f"{folder} belongs to another batch service") from error
        self._lock = threading.Lock()
        try:
            self._connection = _opened(folder / "batches.db")
        except BaseException:
            os.close(self._owned)
            raise

    def close(self) -> None:
        """Give the folder back."""
        with self._lock:
            self._connection.close()
        os.close(self._owned)

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Give out a connection whose changes are kept together, or not at all on an exception."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Give out a connection to read from."""
        with self._lock:
            yield self._connection


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # One process only: without its shared memory, the log works on network file systems, too.
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _check_version(connection, path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version={VERSION}")
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that a later version has made, before anything of it is changed."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise NewerSchemaError(
            f"{path} has schema {found}, and this version knows schemas up to {VERSION}: "
            "run the version that wrote it or a later one, or name another folder"
        )
