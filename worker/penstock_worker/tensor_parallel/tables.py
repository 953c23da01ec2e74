"""Block tables as they travel: only what is new since the step before. Pure.

A table grows by a block every few steps, and may have hundreds. Reading them anew in every step
would take as long as a GPU computes one.
"""

from collections.abc import Sequence

NEW = -1
"""A table that begins like none of the step before."""

Growth = tuple[int, list[int]]
"""Place, in the step before, of the table that this one goes on from, or NEW; and what follows."""


class SentTables:
    """What the other ranks know of tables."""

    def __init__(self) -> None:
        self._last: list[list[int]] = []

    def growth(self, tables: Sequence[list[int]]) -> list[Growth]:
        """Return what a step's tables are, to those who know the ones of the step before."""
        before = self._last
        ends = {table[-1]: place for place, table in enumerate(before)}
        found = [_growth(table, before, ends) for table in tables]
        # Copies, for they grow in place; what has not grown needs no new one.
        self._last = [
            before[place] if place != NEW and not more else [*table]
            for table, (place, more) in zip(tables, found, strict=True)
        ]
        return found


def _growth(table: list[int], before: list[list[int]], ends: dict[int, int]) -> Growth:
    for block in reversed(table):
        place = ends.get(block)
        if place is not None:
            known = before[place]
            if table == known:
                return place, []
            if table[: len(known)] == known:
                return place, table[len(known) :]
            break
    return NEW, table


class ReceivedTables:
    """What a rank knows of tables."""

    def __init__(self) -> None:
        self._last: list[list[int]] = []

    def tables(self, grown: Sequence[Growth]) -> list[list[int]]:
        """Return a step's tables."""
        before = self._last
        self._last = [
            more if place == NEW else before[place] + more if more else before[place]
            for place, more in grown
        ]
        return self._last
