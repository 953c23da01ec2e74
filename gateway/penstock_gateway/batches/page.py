"""Lists come in pages, files and batches alike: the next ones behind one that is known."""

import sqlite3
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted, and in what order."""

    limit: int
    after: str = ""
    """Id of the last one that is known."""
    newest_first: bool = True


def page_of(
    connection: sqlite3.Connection,
    table: Literal["files", "batches"],
    tenant: str,
    page: Page,
    purpose: str = "",
) -> tuple[list[sqlite3.Row], bool]:
    """Return a tenant's rows on a page, and whether there are more of them.

    Args:
        connection: of the database.
        table: that is listed.
        tenant: whose rows they are.
        page: that is wanted; one behind another tenant's row is empty.
        purpose: of files; empty: any.
    """
    order, compare = ("DESC", "<") if page.newest_first else ("ASC", ">")
    where, values = "tenant = ?", [tenant]
    if purpose:
        where, values = f"{where} AND purpose = ?", [*values, purpose]
    if page.after:
        known = f"SELECT place FROM {table} WHERE tenant = ? AND id = ?"  # noqa: S608
        where, values = f"{where} AND place {compare} ({known})", [*values, tenant, page.after]
    rows = connection.execute(
        f"SELECT * FROM {table} WHERE {where} ORDER BY place {order} LIMIT ?",  # noqa: S608
        (*values, page.limit + 1),
    ).fetchall()
    return rows[: page.limit], len(rows) > page.limit
