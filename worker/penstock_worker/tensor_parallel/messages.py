"""What rank 0 and the others say to each other: msgpack, framed.

Each has a connection of its own to rank 0: a socket pair on rank 0's node, TCP from another one
(`joining` is how that begins). Both sides say something all the time (`Alive`), so that whoever is
silent is known to be lost, also while nothing is computed, or in the middle of a step.
"""

import msgspec

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.tensor_parallel.tables import Growth, ReceivedTables, SentTables

BEAT_SECONDS = 2.0
"""Between two signs of life."""
MAX_ORDER = 1 << 28
"""Bytes; a step in which hundreds of requests begin with the same million tokens has less."""
MAX_REPORT = 1 << 16
REASON_CHARACTERS = 4000


class Alive(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Whoever says this is there."""


class Sized(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A rank has room for so many blocks of KV."""

    blocks: int
    kind: str
    """How it computes, which must be the same everywhere: type and device."""


class Loaded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A rank has its part of the model, and waits for steps."""


class RankFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A rank ends, for this reason."""

    message: str
    consequence: bool = False
    """It has only lost others."""


class Leaving(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A rank's node was told to end; it computes until rank 0 has let go."""


Report = Alive | Sized | Loaded | RankFailed | Leaving
"""What rank 0 hears."""


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Load, with room for so many blocks: as many as every rank has room for."""

    blocks: int


class Copy(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Copy a block."""

    source: int
    target: int


class Forward(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Compute a step."""

    tokens: list[int]
    positions: list[int]
    rows: list[tuple[int, int, int]]
    """Of each sequence: first row, count, computed."""
    tables: list[Growth]
    output_rows: list[int]
    greedy: bool
    """Only the likeliest tokens are wanted of it."""

    @classmethod
    def of(cls, batch: Batch, sent: SentTables, *, greedy: bool) -> "Forward":
        """Return what tells a batch to those who know the tables that were sent before."""
        return cls(
            batch.tokens,
            batch.positions,
            [(s.first_row, s.count, s.computed) for s in batch.sequences],
            sent.growth([s.blocks for s in batch.sequences]),
            batch.output_rows,
            greedy,
        )

    def batch(self, received: ReceivedTables) -> Batch:
        """Return the batch."""
        tables = received.tables(self.tables)
        sequences = [Sequence(*rows, table) for rows, table in zip(self.rows, tables, strict=True)]
        return Batch(self.tokens, self.positions, sequences, self.output_rows)


Order = Alive | Begin | Copy | Forward
"""What the other ranks hear."""
