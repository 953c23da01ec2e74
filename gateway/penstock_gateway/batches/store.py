"""What is known of batches and of their requests; every change is one transaction.

A request has one row from the validation of its batch on, and gets its answer once: a second one,
of a request that was asked again after a crash, changes nothing.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec

from penstock_gateway.batches.batch import ACTIVE, ENDED, Batch, Counts, Status
from penstock_gateway.batches.database import Database
from penstock_gateway.batches.page import Page, page_of

ROWS_AT_ONCE: Final = 256


class Entry(NamedTuple):
    """Where a request is in its input file."""

    number: int
    """Of its line, from 1."""
    custom_id: str
    start: int
    size: int


class Line(NamedTuple):
    """A request, and its answer if it has one."""

    number: int
    custom_id: str
    ok: bool | None
    answer: bytes | None


class BatchStore:
    """All batches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: Batch) -> None:
        """Let a batch be known."""
        with self._database.change() as connection:
            connection.execute(
                "INSERT INTO batches (id, tenant, status, input_file, created, document) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(batch.id, batch.tenant, batch.status, batch.input_file, batch.created),
                    msgspec.json.encode(batch),
                ),
            )

    def find(self, batch_id: str, tenant: str | None = None) -> Batch | None:
        """Return a batch; of a tenant, if one is named."""
        with self._database.look() as connection:
            row = _row(connection, batch_id)
        batch = _batch(row) if row else None
        return batch if batch and tenant in (None, batch.tenant) else None

    def listed(self, tenant: str, page: Page) -> tuple[list[Batch], bool]:
        """Return batches of a tenant, and whether there are more of them."""
        with self._database.look() as connection:
            rows, more = page_of(connection, "batches", tenant, page)
        return [_batch(row) for row in rows], more

    def count(self, tenant: str, statuses: Sequence[Status]) -> int:
        """Return how many batches of a tenant are in one of these statuses."""
        marks = ", ".join("?" * len(statuses))
        with self._database.look() as connection:
            row = connection.execute(
                f"SELECT count(*) FROM batches WHERE tenant = ? AND status IN ({marks})",  # noqa: S608
                (tenant, *statuses),
            ).fetchone()
        return int(row[0])

    def active(self) -> list[Batch]:
        """Return the batches that have not ended, the oldest first."""
        marks = ", ".join("?" * len(ACTIVE))
        with self._database.look() as connection:
            rows = connection.execute(
                f"SELECT * FROM batches WHERE status IN ({marks}) ORDER BY place",  # noqa: S608
                ACTIVE,
            ).fetchall()
        return [_batch(row) for row in rows]

    def move(
        self,
        batch_id: str,
        status: Status,
        now: float,
        also: Callable[[sqlite3.Connection], None] | None = None,
        **changes: Any,
    ) -> Batch | None:
        """Return a batch that has come to its next status; None: it has gone elsewhere meanwhile.

        Args:
            batch_id: names it.
            status: that it comes to.
            now: seconds since 1970.
            also: changes what has to change with it.
            changes: of its other fields.
        """
        with self._database.change() as connection:
            row = _row(connection, batch_id)
            if row is None:
                return None
            try:
                moved = _batch(row).moved(status, now, **changes)
            except ValueError:
                return None
            connection.execute(
                "UPDATE batches SET status = ?, document = ? WHERE id = ?",
                (status, msgspec.json.encode(moved), batch_id),
            )
            if also is not None:
                also(connection)
            return moved

    def validated(self, batch_id: str, entries: Iterable[Entry], now: float) -> Batch | None:
        """Begin a batch with its requests.

        Raises:
            sqlite3.IntegrityError: a custom_id is there twice.
        """

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM requests WHERE batch = ?", (batch_id,))
            cursor = connection.executemany(
                "INSERT INTO requests (batch, number, custom_id, start, size) "
                "VALUES (?, ?, ?, ?, ?)",
                ((batch_id, *entry) for entry in entries),
            )
            connection.execute(
                "UPDATE batches SET total = ? WHERE id = ?", (cursor.rowcount, batch_id)
            )

        moved = self.move(batch_id, Status.IN_PROGRESS, now, insert)
        return self.find(batch_id) if moved else None

    def unanswered(self, batch_id: str, after: int) -> list[Entry]:
        """Return the next requests without an answer, behind a line."""
        with self._database.look() as connection:
            rows = connection.execute(
                "SELECT number, custom_id, start, size FROM requests "
                "WHERE batch = ? AND number > ? AND ok IS NULL ORDER BY number LIMIT ?",
                (batch_id, after, ROWS_AT_ONCE),
            ).fetchall()
        return [Entry(*row) for row in rows]

    def answered(self, batch_id: str, number: int, answer: bytes, *, ok: bool) -> bool:
        """Keep the line of a request, if it has none and the batch still wants it."""
        count = "completed = completed + 1" if ok else "failed = failed + 1"
        with self._database.change() as connection:
            kept = connection.execute(
                "UPDATE requests SET ok = ?, answer = ? WHERE batch = ? AND number = ? AND "
                "ok IS NULL AND (SELECT status FROM batches WHERE id = batch) = ?",
                (ok, answer, batch_id, number, Status.IN_PROGRESS),
            ).rowcount
            if kept:
                connection.execute(
                    f"UPDATE batches SET {count} WHERE id = ?",  # noqa: S608
                    (batch_id,),
                )
        return bool(kept)

    def lines(self, batch_id: str) -> Iterator[Line]:
        """Return all requests of a batch in their order; nothing may change them meanwhile."""
        number = 0
        while True:
            with self._database.look() as connection:
                rows = connection.execute(
                    "SELECT number, custom_id, ok, answer FROM requests "
                    "WHERE batch = ? AND number > ? ORDER BY number LIMIT ?",
                    (batch_id, number, ROWS_AT_ONCE),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                number = row["number"]
                ok = None if row["ok"] is None else bool(row["ok"])
                yield Line(number, row["custom_id"], ok, row["answer"])

    def forget_requests(self, batch_id: str, connection: sqlite3.Connection) -> None:
        """Its lines are in files."""
        connection.execute("DELETE FROM requests WHERE batch = ?", (batch_id,))

    def expire(self, created_before: float, most: int) -> None:
        """Forget batches that have ended and are old, or are not among a tenant's newest."""
        marks = ", ".join("?" * len(ENDED))
        ranks = "SELECT place, row_number() OVER newest AS rank FROM batches"
        window = "WINDOW newest AS (PARTITION BY tenant ORDER BY place DESC)"
        too_many = f"SELECT place FROM ({ranks} {window}) WHERE rank > ?"  # noqa: S608
        with self._database.change() as connection:
            connection.execute(
                f"DELETE FROM batches WHERE status IN ({marks}) "  # noqa: S608
                f"AND (created < ? OR place IN ({too_many}))",
                (*ENDED, int(created_before), most),
            )


def _row(connection: sqlite3.Connection, batch_id: str) -> Any:
    found = connection.execute("SELECT * FROM batches WHERE id = ?", (batch_id,))
    return found.fetchone()


def _batch(row: Any) -> Batch:
    counts = Counts(row["total"], row["completed"], row["failed"])
    return replace(msgspec.json.decode(row["document"], type=Batch), counts=counts)
