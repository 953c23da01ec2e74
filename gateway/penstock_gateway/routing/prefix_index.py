"""Which worker has probably cached which prompt prefix, without tokenising anything.

A prompt's bytes are hashed at log-spaced boundaries (two per octave), each hash chained to the one
before, so a hash names the whole prefix up to its boundary. The index maps hashes to the workers
that were sent such a prompt, learned from the gateway's own decisions, bounded, least recently used
out first. Log spacing keeps a look-up at some tens of hashes for any prompt, and loses at most a
third of a match.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

FIRST_BOUNDARY = 128
"""Bytes; shorter prompts are not worth a detour."""


@dataclass(frozen=True)
class PrefixKey:
    """The name of a prompt's first `length` bytes."""

    digest: int
    length: int


def prefix_keys(prompt: bytes, salt: bytes = b"") -> list[PrefixKey]:
    """Return the keys of a prompt, shortest first. Other salts (tenants, models) never match."""
    keys: list[PrefixKey] = []
    digest = xxh3_64_intdigest(salt)
    start, end, wider = 0, FIRST_BOUNDARY, FIRST_BOUNDARY * 3 // 2
    while end <= len(prompt):
        digest = xxh3_64_intdigest(prompt[start:end], digest)
        keys.append(PrefixKey(digest, end))
        start, end, wider = end, wider, end * 2
    return keys


class PrefixIndex:
    """Bounded memory of who was sent what.

    Args:
        capacity: most prefixes remembered; some 200 bytes each.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._workers_of: OrderedDict[int, int] = OrderedDict()  # digest → bit set of slots
        self._slot_of: dict[str, int] = {}
        self._worker_at: list[str] = []
        self._free_slots: list[int] = []

    def __len__(self) -> int:
        return len(self._workers_of)

    def match(self, keys: Sequence[PrefixKey]) -> dict[str, int]:
        """Return the bytes that each worker has probably cached; workers without any are absent."""
        holders: list[int] = []
        for key in keys:
            found = self._workers_of.get(key.digest, 0)
            if not found:
                break
            holders.append(found)
        self._use([key.digest for key in keys[: len(holders)]])
        # Longest first, so that each worker is looked at once, however many keys it holds.
        matched: dict[str, int] = {}
        seen = 0
        for key, found in zip(reversed(keys[: len(holders)]), reversed(holders), strict=True):
            fresh = found & ~seen
            seen |= fresh
            while fresh:
                lowest = fresh & -fresh
                matched[self._worker_at[lowest.bit_length() - 1]] = key.length
                fresh ^= lowest
        return matched

    def record(self, keys: Sequence[PrefixKey], worker: str) -> None:
        """Remember that a worker was sent a prompt with these keys."""
        bit = 1 << self._slot(worker)
        for key in keys:
            self._workers_of[key.digest] = self._workers_of.get(key.digest, 0) | bit
        self._use([key.digest for key in keys])
        while len(self._workers_of) > self._capacity:
            self._workers_of.popitem(last=False)

    def forget(self, worker: str) -> None:
        """Drop a worker that is gone: its cache went with it."""
        slot = self._slot_of.pop(worker, None)
        if slot is None:
            return
        for digest, holders in list(self._workers_of.items()):
            left = holders & ~(1 << slot)
            if left:
                self._workers_of[digest] = left
            else:
                del self._workers_of[digest]
        self._free_slots.append(slot)

    def _use(self, digests: Sequence[int]) -> None:
        """Mark prefixes as used, the shortest last: without it the longer ones are never found."""
        for digest in reversed(digests):
            self._workers_of.move_to_end(digest)

    def _slot(self, worker: str) -> int:
        if worker not in self._slot_of:
            if not self._free_slots:
                self._free_slots.append(len(self._worker_at))
                self._worker_at.append("")
            slot = self._free_slots.pop()
            self._slot_of[worker] = slot
            self._worker_at[slot] = worker
        return self._slot_of[worker]
