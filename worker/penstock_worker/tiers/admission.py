"""Which blocks are worth writing, so that prompts that nobody repeats wear no disk out. Pure.

While there is room, all are. Then those that were asked for before; others, as conversations that
will go on, no faster than the whole tier in `TURNOVER_SECONDS`.
"""

from collections.abc import Iterable
from typing import Final

TURNOVER_SECONDS: Final = 900.0
MEMORY: Final = 4
"""Names that are remembered for each block that the tier holds."""
MOST_NAMES: Final = 1 << 17
"""Some twenty megabytes."""


class Sightings:
    """Remembers which names were asked for, and which of them again.

    Args:
        memory: names that are remembered at least; no more than twice as many.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._recent: dict[bytes, bool] = {}
        self._older: dict[bytes, bool] = {}

    def see(self, names: Iterable[bytes]) -> None:
        """Requests ask for these blocks."""
        for name in names:
            if len(self._recent) >= self._memory:
                self._recent, self._older = {}, self._recent
            self._recent[name] = name in self._recent or name in self._older

    def again(self, name: bytes) -> bool:
        """Return whether a block was asked for more than once."""
        return self._recent.get(name, False) or self._older.get(name, False)


class Admission:
    """Says yes or no to blocks that leave the prefix cache.

    Args:
        capacity: of the tier, in bytes.
        block_bytes: what a block takes of it.
    """

    def __init__(self, capacity: int, block_bytes: int) -> None:
        self.sightings = Sightings(max(1024, min(MEMORY * capacity // block_bytes, MOST_NAMES)))
        self._rate = capacity / TURNOVER_SECONDS
        self._block_bytes = block_bytes
        self._burst = max(self._rate, float(block_bytes))
        self._budget = self._burst
        self._at: float | None = None

    def admits(self, name: bytes, *, room: bool, now: float) -> bool:
        """Return whether a block is to be written.

        Args:
            name: its.
            room: whether it takes nobody's place.
            now: monotonic seconds.
        """
        if room or self.sightings.again(name):
            return True
        passed = 0.0 if self._at is None else now - self._at
        self._at = now
        self._budget = min(self._burst, self._budget + passed * self._rate)
        if self._budget < self._block_bytes:
            return False
        self._budget -= self._block_bytes
        return True
