"""Finds stop strings in text that arrives in pieces, and never lets a part of one leak."""

from collections.abc import Sequence


class StopStrings:
    """Cuts a growing text before the first stop string in it.

    Args:
        stops: none of them empty; without any, text passes through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched = False

    def feed(self, piece: str) -> str:
        """Return what may be shown now. After a match, nothing more comes."""
        if self.matched or not self._stops:
            return "" if self.matched else piece
        text = self._held + piece
        # The stop string that is complete first wins: how the text was cut must not matter.
        found = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if found:
            self.matched = True
            self._held = ""
            return text[: min(found)[1]]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was kept back, at the end of a text without a match."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Return the length of the longest end of `text` that could begin a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
