"""Stop strings of a stream that goes on at another vLLM. Pure.

vLLM keeps back as much text as might be the beginning of a stop string: one character less than the
longest of them has. When a stream breaks, the ids of that text are known, and its characters from
another vLLM (`read_back`). They are shown once it is sure that no stop string begins in them: what
the next one streams is only its own text, kept back in the same way, and it looks for stop strings
only there.
"""

from collections import deque
from typing import Final

EVENTS: Final = 16
"""Events by whose text it is seen where in an answer some ids end."""
_IDS_OF_CHARACTER: Final = 4
"""Most ids of one character: those of its bytes."""
_SPARE: Final = 16
"""Ids in front of those needed, to see that they are the right ones."""
_HALF: Final = "\ufffd"


class StopStrings:
    """Those of one stream.

    Args:
        stops: strings at which the answer ends; the longest has more than a character.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._reach = max(map(len, stops)) - 1
        """Characters that vLLM keeps back."""
        self.shown: deque[bytes] = deque(maxlen=EVENTS)
        """The last events with text that went on."""
        self._kept = ""
        """Text from before the break, and of what came since, that is not shown yet."""
        self._came = 0
        """Characters that the present worker has told."""
        self._unshown = 0
        """Characters of which the next one must tell."""

    @property
    def keeps(self) -> bool:
        """Whether some text is kept, so that events must pass `pass_on`."""
        return bool(self._kept)

    @property
    def doubtful(self) -> int:
        """How many of the last ids have the text that is not shown, and some before; 0: none."""
        return _IDS_OF_CHARACTER * self._unshown + _SPARE if self._unshown else 0

    def note(self, event: bytes) -> None:
        """An event with text has gone on as it came."""
        self.shown.append(event)
        self._came = self._reach

    def restart(self) -> None:
        """The worker has broken off, and another one is to go on."""
        self._unshown = len(self._kept) + (self._reach if self._came else 0)
        self._kept, self._came = "", 0

    def settle(self, text: str, shown: str) -> bool:
        """Take the text of the doubtful ids; return whether it fits what was shown.

        Args:
            text: as a worker reads them by themselves.
            shown: the text of the events in `shown`.
        """
        cut = len(text) - self._unshown
        if cut < 0 or text.endswith(_HALF):
            return False
        self._kept = text[cut:]
        # By themselves, ids may begin inside of a character, and some tokenizers drop a blank.
        before = text[:cut].lstrip(" " + _HALF)
        return shown.endswith(before) or before.endswith(shown)

    def pass_on(self, text: str, *, over: bool, stop: object = None) -> tuple[str, str]:
        """Return what is shown now, and the stop string at which that ends, if it does.

        Args:
            text: that the present worker told.
            over: it has told all.
            stop: at which it has ended, where that is one of the strings.
        """
        self._came += len(text)
        found = self._kept + text
        if isinstance(stop, str) and stop in self._stops:
            found += stop
        # vLLM shows no stop string: but for its own, one in here began before the break. The first
        # that is complete ends an answer, the first in the list if several are.
        ends = [(at + len(stop), stop) for stop in self._stops if (at := found.find(stop)) >= 0]
        if ends:
            end, stop = min(ends, key=_end)
            self._kept = ""
            return found[: end - len(stop)], stop
        if over or self._came >= self._reach:
            self._kept = ""
            return found, ""
        self._kept = found
        return "", ""


def _end(found: tuple[int, str]) -> int:
    return found[0]
