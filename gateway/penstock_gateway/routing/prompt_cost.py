"""What prompts cost a worker that does not say so, by the first tokens that it gives. Pure.

    seconds to the first token = start + token · (prompt tokens in front of it and its own)
                                       + slowing · sequences that decode meanwhile

fitted by least squares in which what is older counts less. Without the last term a busy worker
would look slow in computing prompts, be given fewer, compute them in emptier steps and look slower
still. With it, decoding is told apart: `token` is the slope between what decoding and a constant
leave unexplained of both sides (Frisch and Waugh, Econometrica 1(4), 1933).

Who goes by an estimate that is too high starves a worker; one that is too low is as if none was
there. So what is told is the lower end of what the evidence allows, two standard errors below the
best, and nothing while that is not above zero: with few answers, prompts all alike, or noise.
"""

from math import sqrt
from typing import Final

MEMORY: Final = 0.99
"""Share of its weight that an observation keeps when another one comes."""
FEWEST: Final = 16.0
"""Observations without which nothing is told."""
PATIENCE: Final = 32
"""Observations after which those that have told nothing are forgotten, so that a pause before there
was a fit to see it by (a worker that warms up) does not count for hundreds. Twice as many each
time: what is only noisy needs them."""
ERRORS: Final = 2.0
"""Standard errors below the best estimate."""
SLOWEST: Final = 1e-2
"""Seconds per token above which no estimate is believed: a hundred tokens in a second."""
SAME: Final = 1e-3
"""Share of the tokens' variance that must be their own, and not that of the decoding sequences;
and a token's worth of it at least."""
JITTER: Final = 2e-3
"""Seconds that no first token is measured better than."""
FAR: Final = 3.0
"""Usual errors by which a first token may be late; a later one counts as if it were just so late
(Huber)."""
EVERY: Final = 4
"""Observations from one fit to the next."""


class PromptCost:
    """The estimate for one worker."""

    def __init__(self) -> None:
        self.token = 0.0
        """Seconds for a prompt token at least; 0: not known."""
        self.best = 0.0
        """The likeliest value of it, whatever its error."""
        self.error = 0.0
        """Standard error of that; both 0 before the first fit."""
        self._start = self._slowing = 0.0
        self._usual = 0.0
        """Usual distance from the fit, seconds."""
        self._seen = 0
        self._patience = PATIENCE
        self._begin()

    def _begin(self) -> None:
        """Know nothing."""
        self.best = self.error = self._usual = 0.0
        self._weight = self._mean_x = self._mean_z = self._mean_y = 0.0
        self._xx = self._zz = self._yy = self._xz = self._xy = self._zy = 0.0
        """Sums of products of distances from the means."""

    def observe(self, tokens: float, decoding: float, seconds: float) -> None:
        """Learn from a first token.

        Args:
            tokens: of prompts that were computed until it.
            decoding: sequences that generated when it was asked for.
            seconds: until it came.
        """
        if self._seen == self._patience:
            self._seen, self._patience = 0, 2 * self._patience
            self._begin()
        self._seen += 1
        self._add(tokens, decoding, self._believed(tokens, decoding, seconds))
        if self._seen % EVERY == 0 and self._weight >= FEWEST:
            self._fit()
            if self.token:
                self._patience = 0  # from now on pauses are seen by the fit

    def _believed(self, tokens: float, decoding: float, seconds: float) -> float:
        if not self.best:
            return seconds
        expected = self._start + self.best * tokens + self._slowing * decoding
        off = seconds - expected
        bound = FAR * max(self._usual, JITTER)
        self._usual = MEMORY * self._usual + (1 - MEMORY) * min(abs(off), 2 * bound)
        return min(seconds, expected + bound)  # nothing comes too soon by accident

    def _add(self, x: float, z: float, y: float) -> None:
        """Move means and sums (Welford's algorithm with weights; West, CACM 22(9), 1979)."""
        self._weight = MEMORY * self._weight + 1
        share = 1 / self._weight
        dx, dz, dy = x - self._mean_x, z - self._mean_z, y - self._mean_y
        self._mean_x += share * dx
        self._mean_z += share * dz
        self._mean_y += share * dy
        rest = 1 - share
        self._xx = MEMORY * self._xx + rest * dx * dx
        self._zz = MEMORY * self._zz + rest * dz * dz
        self._yy = MEMORY * self._yy + rest * dy * dy
        self._xz = MEMORY * self._xz + rest * dx * dz
        self._xy = MEMORY * self._xy + rest * dx * dy
        self._zy = MEMORY * self._zy + rest * dz * dy

    def _fit(self) -> None:
        """Solve, first with what decodes and, where that would make it faster, without."""
        if not (self._solve(decoding=True) or self._solve(decoding=False)):
            self.token = self.best = self.error = 0.0

    def _solve(self, *, decoding: bool) -> bool:
        """Return whether there is a solution without negative terms."""
        per_z = self._xz / self._zz if decoding and self._zz > 0 else 0.0
        own = self._xx - per_z * self._xz
        if own <= max(SAME * self._xx, self._weight):
            return False
        best = (self._xy - per_z * self._zy) / own
        slowing = (self._zy - best * self._xz) / self._zz if decoding and self._zz > 0 else 0.0
        if best <= 0 or slowing < 0:
            return False
        left = self._yy - best * self._xy - slowing * self._zy
        noise = max(JITTER * JITTER, left / (self._weight - 3))
        # All of the time spent on prompts is the most that they can have cost.
        self.best = min(best, self._mean_y / self._mean_x, SLOWEST)
        self.error = sqrt(noise / own)
        self.token = max(0.0, self.best - ERRORS * self.error)
        self._slowing = slowing
        self._start = max(0.0, self._mean_y - self.best * self._mean_x - slowing * self._mean_z)
        self._usual = self._usual or sqrt(noise)
        return True
