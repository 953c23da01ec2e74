"""Whether guessing pays, by what steps with and without it have really taken. Pure.

What a model of their cost cannot know is in there too: Python between steps, other processes,
texts that never repeat. Steps with guesses and plain ones take turns, few of the one that loses:

    trial     a few steps with guesses; the first is not counted, as a draft has to catch up
    guessing  as long as tokens come faster so, with a short check of plain steps now and then
    pause     plain steps, twice as many each time that a trial has lost in a row
"""

from collections import deque
from statistics import median_low
from typing import Final

WINDOW: Final = 8
"""Latest steps of each kind that are compared."""
CLIPPED: Final = 3.0
"""Times the median that a step counts for at most: what the machine did meanwhile says nothing."""
TRIAL: Final = 5
RUN: Final = 8
"""Steps with guesses after which these must still pay."""
RUNS: Final = 16
"""After so many of them plain steps are measured again."""
CHECK: Final = 2
SHORTEST_PAUSE: Final = 16
LONGEST_PAUSE: Final = 512


class _Steps:
    """The latest steps of one kind."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def add(self, seconds: float, tokens: int) -> None:
        self._seen.append((seconds, tokens))

    def forget(self) -> None:
        self._seen.clear()

    @property
    def seconds_per_token(self) -> float | None:
        """None while nothing is known."""
        tokens = sum(tokens for _, tokens in self._seen)
        if not tokens:
            return None
        most = CLIPPED * median_low(seconds for seconds, _ in self._seen)
        return sum(min(seconds, most) for seconds, _ in self._seen) / tokens


class Pace:
    """Says before each step whether to guess; for batches of about one size."""

    def __init__(self) -> None:
        self._guessing, self._plain = _Steps(), _Steps()
        self._guesses = True
        self._fresh = True
        self._left = TRIAL
        self._runs = 0
        self._pause = SHORTEST_PAUSE

    def next(self) -> bool:
        """Return whether the next step is to be one with guesses."""
        if not self._left:
            self._turn()
        self._left -= 1
        return self._guesses

    def learn(self, seconds: float, tokens: int, *, guessed: bool) -> None:
        """Take in a step that did nothing but to decode, with the tokens that came out of it."""
        if not guessed:
            self._plain.add(seconds, tokens)
        elif self._fresh:
            self._fresh = False
        else:
            self._guessing.add(seconds, tokens)

    @property
    def _pays(self) -> bool | None:
        """None while one of the two is not known."""
        guessing, plain = self._guessing.seconds_per_token, self._plain.seconds_per_token
        return None if guessing is None or plain is None else guessing < plain

    def _turn(self) -> None:
        pays = self._pays
        if pays is False:
            self._rest(self._pause)
            self._guessing.forget()  # a trial is judged by its own steps
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif not self._guesses:
            self._guess(RUN if pays else TRIAL)
        elif pays is None or self._runs == RUNS:
            self._rest(CHECK)
        else:
            self._pause = SHORTEST_PAUSE
            self._runs += 1
            self._left = RUN

    def _guess(self, steps: int) -> None:
        self._guesses, self._left, self._runs, self._fresh = True, steps, 0, True

    def _rest(self, steps: int) -> None:
        self._guesses, self._left = False, steps
