"""What lies in a tier, and what leaves it first. Pure.

Segmented LRU (Karedla, Love, Wherry, "Caching strategies to improve disk system performance", IEEE
Computer 1994): a block enters on probation, and what is asked for again is protected. So a flood of
prompts that nobody repeats pushes out other such prompts, and not what many begin with.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

PROTECTED = 0.8
"""Of the capacity, that protected entries take at most."""

K = TypeVar("K", bound=Hashable)


class SegmentedLRU(Generic[K]):
    """Keys with sizes.

    Args:
        capacity: what their sizes may add up to; `victim` says who leaves when it is more.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._protected_used = 0
        self._probation: OrderedDict[K, int] = OrderedDict()  # least recently used first
        self._protected: OrderedDict[K, int] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._probation or key in self._protected

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def keys(self) -> Iterable[K]:
        """Return all keys."""
        return [*self._probation, *self._protected]

    def add(self, key: K, size: int, *, protected: bool = False) -> None:
        """Add a key, or take note of its size."""
        self.discard(key)
        self.used += size
        self._probation[key] = size
        if protected:
            self.touch(key)

    def add_oldest(self, entries: Iterable[tuple[K, int]]) -> None:
        """Add what was used before anything that is here: the least recently used first."""
        for key, size in reversed([entry for entry in entries if entry[0] not in self]):
            self.used += size
            self._probation[key] = size
            self._probation.move_to_end(key, last=False)

    def touch(self, key: K) -> None:
        """A key was asked for again; nothing for an unknown one."""
        size = self._probation.pop(key, None)
        if size is None:
            if key in self._protected:
                self._protected.move_to_end(key)
            return
        self._protected[key] = size
        self._protected_used += size
        while self._protected_used > PROTECTED * self.capacity:
            oldest, its_size = self._protected.popitem(last=False)
            self._protected_used -= its_size
            self._probation[oldest] = its_size

    def discard(self, key: K) -> bool:
        """Take a key out; False when it was not there."""
        size = self._probation.pop(key, None)
        if size is None:
            size = self._protected.pop(key, None)
            if size is None:
                return False
            self._protected_used -= size
        self.used -= size
        return True

    def victim(self, most: int | None = None) -> K | None:
        """Return who leaves next while more is used than `most`; None when it is not.

        Args:
            most: the capacity, if nothing is said.
        """
        if self.used <= (self.capacity if most is None else most):
            return None
        return next(iter(self._probation or self._protected))
