"""The token ids of a stream, four bytes each, and no more than a bound. Pure."""

from array import array
from typing import Final

MOST: Final = 1 << 18
"""Ids of prompt and answer, a mebibyte; of a longer stream none are kept, and it cannot go on."""


class TokenIds:
    """Of the prompt, then of the answer; the last of these may be held: their text is not shown."""

    def __init__(self) -> None:
        self.prompt = self.answer = self.held = 0
        """How many there are of each, kept or not; `answer` is without those held."""
        self.kept = True
        """They are kept, and are what ids are."""
        self._ids = array("I")

    def begin(self, ids: bytes) -> None:
        """Take those of the prompt, as in a JSON list."""
        self.prompt = self._take(ids)

    def hold(self, ids: bytes) -> int:
        """Take ids whose text is not shown yet; return how many they are."""
        count = self._take(ids)
        self.held += count
        return count

    def show(self) -> int:
        """Count those held as the answer's; return how many they are."""
        count, self.held = self.held, 0
        self.answer += count
        return count

    def drop_held(self) -> None:
        """Forget those held."""
        if self.held and self.kept:
            del self._ids[-self.held :]
        self.held = 0

    def so_far(self) -> bytes:
        """Return those of prompt and answer, as in a JSON list."""
        return _written(self._ids[: self.prompt + self.answer])

    def last(self, count: int) -> bytes:
        """Return the last of the answer, as in a JSON list: so many, or all."""
        end = self.prompt + self.answer
        return _written(self._ids[end - min(count, self.answer) : end])

    def are(self, ids: bytes) -> bool:
        """Return whether those of prompt and answer are these, as in a JSON list."""
        found = _read(ids)
        return found is not None and found == self._ids[: self.prompt + self.answer]

    def _take(self, ids: bytes) -> int:
        count = ids.count(b",") + 1 if ids else 0
        if not self.kept or not count:
            return count
        found = _read(ids)
        if found is None or len(self._ids) + count > MOST:
            self.kept, self._ids = False, array("I")
        else:
            self._ids += found
        return count


def _read(ids: bytes) -> "array[int] | None":
    try:
        return array("I", [int(one) for one in ids.split(b",")])
    except (ValueError, OverflowError):
        return None


def _written(ids: "array[int]") -> bytes:
    return ",".join(map(str, ids)).encode()
