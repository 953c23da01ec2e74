"""What the gateway has sent to a worker and not got back."""

import math
from dataclasses import dataclass, field
from typing import Final

from penstock_contract.first_token import FEWEST_PROMPTS
from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.breaker import Breaker
from penstock_gateway.routing.outliers import Pace
from penstock_gateway.routing.policy import RECENT_SECONDS, Candidate
from penstock_gateway.routing.prefix_index import BOUNDARIES
from penstock_gateway.routing.prompt_cost import PromptCost
from penstock_gateway.routing.speed import SpeedLearner

BYTES_PER_TOKEN: Final = 4.0
"""Of English prose and code, until the answers tell better."""


@dataclass(frozen=True)
class Tally:
    """What the gateway has on a worker, and what it saw of it since it knows it."""

    in_flight: int = 0
    outstanding_tokens: int = 0
    """Uncached prompt tokens of requests that have not answered yet."""
    requests: int = 0
    """Ended requests that the worker was answerable for."""
    failures: int = 0
    """Those that it failed."""
    prompt_token: float = 0.0
    """Seconds for a prompt token as it told, or likeliest by its first tokens; 0: not known."""
    prompt_error: float = 0.0
    """Standard error of that; 0: it told, or not known."""


@dataclass(slots=True)
class Load:
    """What is known of one worker; in tokens."""

    candidate: Candidate
    """What routing saw of it last."""
    waiting: dict[int, int] = field(default_factory=dict)
    """Uncached tokens by ticket, until the first token; in the order in which they were given."""
    outstanding: int = 0
    """Their sum."""
    unseen: set[int] = field(default_factory=set)
    """Tickets of those whose first token nobody will see."""
    recent: float = 0.0
    """Seconds of computing given lately, as of `recent_at`."""
    recent_at: float = 0.0
    kv: dict[int, int] = field(default_factory=dict)
    """Tokens of KV by ticket that is out; those of an earlier life of the worker do not count."""
    kv_used: int = 0
    others_outstanding: int = 0
    """What other processes of this gateway have on the worker."""
    others_waiting: int = 0
    others_resident: int = 0
    others_kv: int = 0
    kv_tokens: float = float("inf")
    """Room for KV, as far as known."""
    breaker: Breaker = field(default_factory=Breaker)
    pace: Pace = field(default_factory=Pace)
    speed: SpeedLearner = field(default_factory=SpeedLearner)
    prompt_token: float = 0.0
    """Seconds that it computes for a prompt token, by its own measurement; 0: it has not told.

    First tokens teach something else: what came between, too, as when it has much to decode. Fed
    by that, a busy worker would get fewer prompts the busier it is.
    """
    prompts: PromptCost = field(default_factory=PromptCost)
    """What its first tokens tell of that, where it has not told."""
    cost: StepCost | None = None
    """Of its steps, by its own measurement; None: it has not told."""
    bytes_per_token: float = BYTES_PER_TOKEN
    tokens_seen: bool = False
    epoch: bytes = b""
    requests: int = 0
    failures: int = 0

    def began(self, number: int) -> None:
        """The prompt of a request has been computed."""
        self.outstanding -= self.waiting.pop(number, 0)
        self.unseen.discard(number)

    def ended(self, number: int, *, counts: bool, failed: bool) -> None:
        """A request is over; whether it says anything about the worker, and whether that failed."""
        self.began(number)
        self.kv_used -= self.kv.pop(number, 0)
        self.requests += counts
        self.failures += counts and failed
        if counts and not failed:
            self.breaker = self.breaker.finished()

    def showed(self, number: int) -> None:
        """The first token of a prompt has come: those given before it are computed, too."""
        for earlier in [one for one in self.unseen if one < number]:
            self.began(earlier)
        self.began(number)

    def is_ahead(self, number: int) -> bool:
        """Return whether a prompt that was given before is known not to be computed yet."""
        for earlier in self.waiting:
            if earlier >= number:
                return False
            if earlier not in self.unseen:
                return True
        return False

    @property
    def known_token(self) -> float:
        """Seconds that it computes for a prompt token, told or learned; 0: not known."""
        return self.prompt_token or self.prompts.token

    @property
    def decoding(self) -> int:
        """Sequences that it generates."""
        waiting = len(self.waiting) + self.others_waiting
        return max(0, len(self.kv) + self.others_resident - waiting)

    def room_in(self, backlog: float, token: float) -> float:
        """Return in about how many seconds its prompts will be few, or take less than `backlog`.

        0: they are, or do. What other processes gave counts, too.

        Args:
            backlog: seconds.
            token: seconds for a prompt token.
        """
        prompts = len(self.waiting) + self.others_waiting
        if prompts < FEWEST_PROMPTS:
            return 0.0
        tokens = self.outstanding + self.others_outstanding
        before_last = tokens - next(reversed(self.waiting.values()), 0)
        return max(0.0, min(tokens * token - backlog, before_last * token))

    def tokens(self, size: int) -> int:
        """Return about how many tokens so many bytes are."""
        return int(size / self.bytes_per_token)

    def recently(self, now: float) -> float:
        """Return the seconds of computing that it was given lately."""
        return self.recent * math.exp((self.recent_at - now) / RECENT_SECONDS)

    def given(self, seconds: float, now: float) -> None:
        """It has so much more to compute."""
        self.recent, self.recent_at = self.recently(now) + seconds, now

    def learn_tokens(self, size: int, tokens: int | None) -> None:
        """Learn how many bytes a token has."""
        if tokens and size >= BOUNDARIES[0]:
            weight = 0.1 if self.tokens_seen else 1.0
            self.tokens_seen = True
            self.bytes_per_token += weight * (size / tokens - self.bytes_per_token)

    def tally(self) -> Tally:
        """Return what others may know."""
        counted = (len(self.kv), self.outstanding, self.requests, self.failures)
        if self.prompt_token or not self.prompts.token:
            return Tally(*counted, self.prompt_token)
        return Tally(*counted, self.prompts.best, self.prompts.error)
