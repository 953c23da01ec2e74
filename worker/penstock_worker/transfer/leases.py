"""Leases: blocks that are kept for another worker until it has them, or until time is up.

The engine's thread grants, ends and collects; threads that send blocks open and close. A lease
that has ended keeps its blocks until nobody reads them any more.
"""

import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock_contract.handoff import LeaseOutcome


@dataclass(eq=False)
class Lease:
    """Full blocks of one prompt, from its beginning."""

    blocks: list[int]
    names: list[bytes]
    deadline: float
    """Monotonic seconds."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    readers: int = 0
    ended: LeaseOutcome | None = None


class Leases:
    """The leases of one engine.

    Args:
        capacity: blocks that they may keep together; one that several keep counts as often.
    """

    def __init__(self, capacity: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._room = self._capacity = capacity
        self._leases: dict[str, Lease] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def blocks(self) -> int:
        """Blocks that are kept."""
        return self._capacity - self._room

    @property
    def next_deadline(self) -> float | None:
        """When the first lease runs out."""
        with self._lock:
            return min((lease.deadline for lease in self._leases.values()), default=None)

    def grant(self, blocks: Sequence[int], names: Sequence[bytes], deadline: float) -> Lease | None:
        """Return a lease on blocks that the caller has a reference to; None when there is no room.

        The reference is the lease's until `collect` returns it.
        """
        with self._lock:
            if len(blocks) > self._room:
                self.outcomes[LeaseOutcome.REFUSED] += 1
                return None
            self._room -= len(blocks)
            lease = Lease(list(blocks), list(names), deadline)
            self._leases[lease.id] = lease
            return lease

    def open(self, lease_id: str, now: float) -> Lease | None:
        """Begin to read; None when there is no such lease, or no more."""
        with self._lock:
            lease = self._leases.get(lease_id)
            if lease is None or lease.ended is not None or lease.deadline <= now:
                return None
            lease.readers += 1
            return lease

    def close(self, lease: Lease) -> None:
        """End reading."""
        with self._lock:
            lease.readers -= 1

    def end(self, lease_id: str, outcome: LeaseOutcome) -> None:
        """Say that nobody needs a lease any more, or not any longer; unknown ones are ignored."""
        with self._lock:
            lease = self._leases.get(lease_id)
            if lease is not None and lease.ended is None:
                lease.ended = outcome

    def collect(self, now: float) -> list[Lease]:
        """Forget the leases that are over, and return them; their blocks are to be released."""
        with self._lock:
            for lease in self._leases.values():
                if lease.ended is None and lease.deadline <= now:
                    lease.ended = LeaseOutcome.EXPIRED
            over = [one for one in self._leases.values() if one.ended and not one.readers]
            for lease in over:
                del self._leases[lease.id]
                self._room += len(lease.blocks)
                self.outcomes[str(lease.ended)] += 1
            return over
