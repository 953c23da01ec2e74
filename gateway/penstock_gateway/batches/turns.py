"""Which batches run now: tenants take turns, so that nobody waits for all of another's. Pure."""

from collections import Counter
from collections.abc import Collection, Sequence

from penstock_gateway.batches.batch import Batch

MOST_AT_ONCE = 16
"""Batches that are carried at the same time; one more for each tenant that would have none."""


def next_ones(active: Sequence[Batch], running: Collection[str]) -> list[Batch]:
    """Return the batches to begin now.

    Args:
        active: those that have not ended, the oldest first.
        running: ids of those that are carried already.
    """
    held = Counter(batch.tenant for batch in active if batch.id in running)
    waiting = [batch for batch in active if batch.id not in running]
    found: list[Batch] = []
    while waiting:
        batch = min(waiting, key=lambda waits: held[waits.tenant])
        if held[batch.tenant] and len(running) + len(found) >= MOST_AT_ONCE:
            break
        waiting.remove(batch)
        held[batch.tenant] += 1
        found.append(batch)
    return found
