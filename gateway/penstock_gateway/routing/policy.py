"""The choice of a worker, in one unit: seconds.

    wait(w) = start + outstanding prefill tokens(w) · token(w)
    ttft(w) = wait(w) + uncached(w) · token(w)
    cost(w) = wait(w) + COMPUTING · uncached(w) · token(w) + β(w) · resident(w)
              + SPREADING · recent(w)

`uncached` is what of the prompt the worker has probably not cached, `resident` the sequences that
it is working on, β what one more costs each of them, `recent` what it was given to compute lately.
Computing weighs more than waiting, because it is not this request's time alone: the requests behind
it wait for it too, and a prefix that is cached once more pushes another one out. A hot prefix
therefore attracts requests until the queue in front of it outweighs that, and never when the first
token would come `STICKINESS` seconds later than elsewhere. A worker that has no room for the
request's KV comes after those that have.
"""

import math
import sys
from collections.abc import Sequence
from typing import Final

from penstock_gateway.routing.speed import Speed

COMPUTING: Final = 6.0
"""Weight of a second of computing against one of waiting. On the Mooncake conversation trace 1
gives 0.84 of the ideal hits and 6 gives 0.91, with the same median and 90 % quantile of TTFT."""
SPREADING: Final = 0.1
"""Weight of the computing that a worker was given lately: it decides where what is cached nowhere
goes, and so where the sessions that grow out of it will be."""
RECENT_SECONDS: Final = 600.0
"""Time in which what was given is forgotten to 1/e."""
STICKINESS: Final = 2.0
"""Seconds by which the first token may come later than on the best other worker."""
USUAL: Final = Speed()
"""Of workers that nothing is known of."""
NEAR: Final = 0.002
"""Seconds that no estimate here can tell apart."""


class Candidate:
    """A ready worker as the gateway sees it.

    Args:
        id: of the worker.
        speed: that it has shown.
        resident: requests that it is working on.
        outstanding: uncached prompt tokens of requests that have not answered yet.
        matched: tokens of this prompt that it has probably cached.
        kv_free: tokens for which it has room.
        recent: seconds of computing that it was given lately (`RECENT_SECONDS`).
        session: it served the session that the request says it belongs to.
        preferred: others come after all preferred ones, whatever their cost.
        age: what lies between the matched prefix and now; see prefix_index.Match.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - what it is called everywhere
        speed: Speed = USUAL,
        resident: int = 0,
        outstanding: int = 0,
        matched: int = 0,
        kv_free: float = float("inf"),
        recent: float = 0.0,
        session: bool = False,
        preferred: bool = True,
        age: int = 0,
    ) -> None:
        self.id = id
        self.speed = speed
        self.resident = resident
        self.outstanding = outstanding
        self.matched = matched
        self.kv_free = kv_free
        self.recent = recent
        self.session = session
        self.preferred = preferred
        self.age = age

    def copy(self) -> "Candidate":
        """Return what is seen now; copy.copy takes ten times as long."""
        return Candidate(
            self.id, self.speed, self.resident, self.outstanding, self.matched, self.kv_free,
            self.recent, self.session, self.preferred, self.age,
        )  # fmt: skip


class Choice:
    """A candidate with its cost and why.

    Args:
        candidate: as it was seen.
        cost: in seconds.
        ttft: predicted seconds to the first token.
        uncached: tokens of the prompt that the worker has to compute.
    """

    def __init__(self, candidate: Candidate, cost: float, ttft: float, uncached: int) -> None:
        self.candidate = candidate
        self.cost = cost
        self.ttft = ttft
        self.uncached = uncached
        self.grade = 0
        """Lower ones go first, whatever they cost."""
        self.id = candidate.id
        """The worker."""
        self.matched = candidate.matched
        """Tokens of the prompt that the worker has probably cached."""

    @property
    def reason(self) -> str:
        """Say why, for people."""
        c = self.candidate
        return (
            f"ttft={self.ttft:.3f}s cost={self.cost:.3f}s outstanding={c.outstanding} "
            f"uncached={self.uncached} matched={c.matched} resident={c.resident}"
            f"{' session' if c.session else ''}{'' if self.fits else ' kv-full'}"
        )

    @property
    def fits(self) -> bool:
        """Whether the worker has room for the prompt's KV."""
        return self.uncached <= self.candidate.kv_free

    def computed(self, cached: int | None) -> int:
        """Return the tokens that were computed, so many having been cached; None: who knows."""
        if cached is None:
            return self.uncached
        return max(1, self.uncached + self.matched - cached)

    def was_right(self, cached: int) -> bool:
        """Return whether what was expected to be cached was, by and large."""
        return cached >= self.matched / 2


def rank(
    candidates: Sequence[Candidate], prompt: int, tie: float, most: int = sys.maxsize
) -> list[Choice]:
    """Return the candidates, best first.

    Args:
        candidates: ready workers; may be empty. They may change afterwards: choices keep copies.
        prompt: tokens.
        tie: a random number in [0, 1) that chooses among the best that are nearly equal, so that
            several gateways that see the same do not all choose the same.
        most: how many are wanted.
    """
    choices = [_weighed(candidate, prompt) for candidate in candidates]
    _grade(choices)
    if not choices:
        return []
    first = _nearly_cheapest(choices, tie)
    ranking = [first]
    if most > 1:
        choices.remove(first)
        ranking += sorted(choices, key=lambda choice: (choice.grade, choice.cost))
    for choice in ranking:
        choice.candidate = choice.candidate.copy()
    return ranking


def _weighed(candidate: Candidate, prompt: int) -> Choice:
    cost, ttft, uncached = weigh(candidate, prompt)
    return Choice(candidate, cost, ttft, uncached)


def _grade(choices: list[Choice]) -> None:
    """Put those last that are not preferred, and of each kind those that are late or full."""
    soonest = math.inf
    for choice in choices:
        if choice.candidate.preferred and choice.ttft < soonest:
            soonest = choice.ttft
    bound = STICKINESS + (soonest if soonest < math.inf else 0.0)
    for choice in choices:
        unfit = choice.ttft > bound or not choice.fits
        choice.grade = (0 if choice.candidate.preferred else 2) + (1 if unfit else 0)


def _nearly_cheapest(choices: list[Choice], tie: float) -> Choice:
    best = choices[0]
    for choice in choices:
        if choice.grade < best.grade or (choice.grade == best.grade and choice.cost < best.cost):
            best = choice
    dearest = best.cost + NEAR
    near = [c for c in choices if c.grade == best.grade and c.cost <= dearest]
    return near[int(tie * len(near))]


def weigh(candidate: Candidate, prompt: int) -> tuple[float, float, int]:
    """Return what a candidate would cost, the predicted TTFT, and the uncached tokens."""
    uncached = prompt - candidate.matched
    if uncached < 1:
        uncached = 1
    speed = candidate.speed
    wait = speed.start + candidate.outstanding * speed.token
    computing = uncached * speed.token
    # The state of a session that says so is worth more than what its bytes show.
    weighed = 0.0 if candidate.session else COMPUTING * computing
    cost = wait + weighed + speed.crowding * candidate.resident + SPREADING * candidate.recent
    return cost, wait + computing, uncached
