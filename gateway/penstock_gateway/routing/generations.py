"""A map that forgets what was not put into it for a long time."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Generations(Generic[K, V]):
    """Two dictionaries: when the younger is full it becomes the older, and the older is dropped.

    Half as exact as a list of least recent use, at a third of its time and memory. Hot loops read
    and write `young` and `old` themselves.

    Args:
        capacity: entries of one generation.
    """

    def __init__(self, capacity: int) -> None:
        self.young: dict[K, V] = {}
        self.old: dict[K, V] = {}
        self._capacity = capacity

    def __len__(self) -> int:
        """Return how many entries take memory; some may be in both generations."""
        return len(self.young) + len(self.old)

    def get(self, key: K) -> V | None:
        """Return what was put last under a key, unless it is forgotten."""
        found = self.young.get(key)
        return self.old.get(key) if found is None else found

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        self.young[key] = value
        self.turn_when_full()

    def turn_when_full(self) -> None:
        """Drop the older generation when the younger one is full."""
        if len(self.young) >= self._capacity:
            self.old, self.young = self.young, {}
