"""Lets a proposer guess only where that brings tokens faster, as far as it can be measured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock_worker.request import Request
from penstock_worker.speculative.pace import Pace
from penstock_worker.speculative.proposer import NOTHING, Proposal, Proposer, Room


@dataclass(frozen=True)
class _Step:
    """That runs: of requests that all decode."""

    pace: Pace
    guessed: bool
    known: dict[Request, int]
    """Tokens of each request when it began."""
    began: float


class PacedProposer:
    """Asks another one, or nobody.

    A step lasts from one call to the next, with all that Python does in between. Batches of other
    sizes are judged by themselves: what pays for one stream may lose for thirty.

    Args:
        proposer: guesses.
        pause: is called where steps without it follow.
        clock: seconds.
    """

    def __init__(
        self,
        proposer: Proposer,
        pause: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._proposer = proposer
        self._pause = pause
        self._clock = clock
        self._paces: dict[int, Pace] = {}
        self._step: _Step | None = None
        self._guessed = False

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        """See `Proposer.propose`."""
        began = self._clock()
        self._learn(running, began)
        if not running:
            return []
        pace = self._paces.setdefault(len(running).bit_length(), Pace())
        guesses = pace.next()
        if self._guessed and not guesses:
            self._pause()
        self._guessed = guesses
        if all(request.pending == 1 for request in running):
            known = {request: len(request.tokens) for request in running}
            self._step = _Step(pace, guesses, known, began)
        return self._proposer.propose(running, room) if guesses else [NOTHING] * len(running)

    def _learn(self, running: Sequence[Request], now: float) -> None:
        last, self._step = self._step, None
        # Who was admitted meanwhile had a prompt computed; where nobody runs, time passed idly.
        if last is None or not running or not last.known.keys() >= set(running):
            return
        tokens = sum(len(request.tokens) - before for request, before in last.known.items())
        last.pace.learn(now - last.began, tokens, guessed=last.guessed)
