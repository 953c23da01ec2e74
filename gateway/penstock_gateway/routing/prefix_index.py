"""Which worker has probably cached which prompt prefix, without tokenising anything.

A prompt's bytes are hashed at the `BOUNDARIES`, each hash chained to the one before, so a hash
names the whole prefix up to its boundary. Per worker the index remembers which prefixes it was
sent, and when: not by the clock but by how many bytes it had to compute until then. What lies
further back than the worker's cache reaches is taken for evicted. How far that is nobody tells;
it is learned from what workers report to have had cached (`reported`). Bounded: two generations of
entries, the older of which is dropped when the younger is full.
"""

from dataclasses import dataclass, field
from typing import Final

from xxhash import xxh3_64_intdigest

from penstock_gateway.routing.generations import Generations

FIRST_BOUNDARY: Final = 512
"""Bytes; shorter prompts are not worth a detour."""
EVEN_UP_TO: Final = 4096
PER_OCTAVE: Final = 8
"""Boundaries lie `FIRST_BOUNDARY` apart up to `EVEN_UP_TO`, and so many between its doubles."""
LONGEST: Final = 1 << 26

CAPACITY: Final = 200_000
"""Prefixes remembered per generation, of all workers together and of each; some 150 bytes each."""

NEVER: Final = float("inf")


def _boundaries() -> list[int]:
    found = list(range(FIRST_BOUNDARY, EVEN_UP_TO, FIRST_BOUNDARY))
    start = EVEN_UP_TO
    while start <= LONGEST:
        found += range(start, 2 * start, start // PER_OCTAVE)
        start *= 2
    return found


BOUNDARIES: Final = _boundaries()

PrefixKeys = list[int]
"""The hashes of a prompt's prefixes; key `i` stands for its first `BOUNDARIES[i]` bytes."""


def prefix_keys(prompt: bytes, salt: bytes = b"") -> PrefixKeys:
    """Return the keys of a prompt, shortest first. Other salts (tenants, models) never match."""
    keys: PrefixKeys = []
    size, start, hashed = len(prompt), 0, xxh3_64_intdigest
    digest = hashed(salt)
    for end in BOUNDARIES:
        if end > size:
            break
        digest = hashed(prompt[start:end], digest)
        keys.append(digest)
        start = end
    return keys


@dataclass
class _Cache:
    """What a worker was sent, by its key: the stamp of the last time."""

    worker: str
    stamps: Generations[int, int]
    sent: int = 0
    """Bytes that it had to compute so far: the clock of the stamps."""
    reach: float = NEVER
    """Bytes after which a prefix that was not used is gone."""


class Match:
    """What a worker has of a prompt.

    Args:
        length: bytes that it has probably cached.
        age: bytes that it computed since it was last sent the longest prefix that it ever was sent.
    """

    def __init__(self, length: int, age: int) -> None:
        self.length = length
        self.age = age


@dataclass
class PrefixIndex:
    """Bounded memory of who was sent what.

    Args:
        capacity: prefixes remembered per generation.
    """

    capacity: int = CAPACITY
    _holders: Generations[int, int] = field(init=False)
    """Bit sets of slots. A bit is a hint: the worker's own stamps decide."""
    _caches: list[_Cache | None] = field(default_factory=list)
    """By slot."""
    _slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._holders = Generations(self.capacity)

    def __len__(self) -> int:
        """Return how many prefixes are remembered; never more than twice the capacity."""
        return len(self._holders)

    def match(self, keys: PrefixKeys) -> dict[str, Match]:
        """Return what each worker has of a prompt; workers without any of it are absent."""
        found: dict[str, Match] = {}
        young, old = self._holders.young, self._holders.old
        seen, everyone = 0, (1 << len(self._caches)) - 1
        for number in range(self._known(keys) - 1, -1, -1):
            key = keys[number]
            fresh = (young.get(key) or old.get(key, 0)) & ~seen
            while fresh:
                bit = fresh & -fresh
                fresh ^= bit
                cache = self._caches[bit.bit_length() - 1]
                if cache is None:
                    continue
                stamp = cache.stamps.young.get(key) or cache.stamps.old.get(key)
                if stamp is None:
                    continue
                seen |= bit
                age = cache.sent - stamp
                length = BOUNDARIES[number] if age <= cache.reach else 0
                found[cache.worker] = Match(length, age)
            if seen == everyone:
                break
        return found

    def record(self, keys: PrefixKeys, worker: str, uncached: int) -> int:
        """Remember that a worker was sent a prompt, so many bytes of which it has to compute.

        Returns:
            the stamp; `retract` takes it when the worker never computed the prompt.
        """
        if not keys:
            return 0
        slot = self._slot(worker)
        cache = self._caches[slot]
        assert cache is not None  # noqa: S101 - a slot in use has a cache
        cache.sent += max(1, uncached)
        stamp, bit = cache.sent, 1 << slot
        stamps, young, old = cache.stamps.young, self._holders.young, self._holders.old
        known = self._known(keys)
        for key in keys[:known]:
            holders = young.get(key)
            if holders is None or not holders & bit:
                young[key] = (holders or old.get(key, 0)) | bit
        for key in keys[known:]:
            young[key] = bit
        for key in keys:
            stamps[key] = stamp
        cache.stamps.turn_when_full()
        self._holders.turn_when_full()
        return stamp

    def retract(self, keys: PrefixKeys, worker: str, stamp: int) -> None:
        """Forget a prompt that a worker was sent and did not compute."""
        cache = self._cache(worker)
        if cache is not None:
            for key in keys:
                if cache.stamps.young.get(key) == stamp:
                    del cache.stamps.young[key]

    def retract_last(self, keys: PrefixKeys, worker: str) -> None:
        """Do the same for the last time that a worker was sent a prompt."""
        cache = self._cache(worker)
        if cache is not None and keys:
            self.retract(keys, worker, cache.stamps.young.get(keys[-1], 0))

    def reported(self, worker: str, age: int, *, cached: bool) -> None:
        """Learn how far a worker's cache reaches: what it had, or had not, of a prompt so old."""
        cache = self._cache(worker)
        if cache is None:
            return
        if cached and age > 0.8 * cache.reach:
            cache.reach = max(age, 1.1 * cache.reach)
        elif not cached and 0 < age <= cache.reach:
            cache.reach = min(age, 0.9 * cache.reach) if cache.reach < NEVER else age

    def reaches(self, worker: str, size: int) -> None:
        """Say how many bytes a worker's cache holds, to begin with."""
        cache = self._caches[self._slot(worker)]
        if cache is not None and cache.reach == NEVER:
            cache.reach = float(size)

    def forget(self, worker: str) -> None:
        """Drop a worker that is gone, or has begun anew: its cache went with it."""
        slot = self._slots.pop(worker, None)
        if slot is not None:
            self._caches[slot] = None

    def _known(self, keys: PrefixKeys) -> int:
        """Return how many of a prompt's prefixes anybody was sent.

        Whoever is sent a prompt is sent all of its prefixes, and a longer one is never remembered
        for longer than a shorter one: what is known is a beginning of the keys, found by halving.
        """
        young, old = self._holders.young, self._holders.old
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            if keys[middle] in young or keys[middle] in old:
                low = middle + 1
            else:
                high = middle
        return low

    def _cache(self, worker: str) -> _Cache | None:
        slot = self._slots.get(worker)
        return None if slot is None else self._caches[slot]

    def _slot(self, worker: str) -> int:
        slot = self._slots.get(worker)
        if slot is None:
            fresh = _Cache(worker, Generations(self.capacity))
            if None in self._caches:
                slot = self._caches.index(None)
                self._caches[slot] = fresh
            else:
                slot = len(self._caches)
                self._caches.append(fresh)
            self._slots[worker] = slot
        return slot
