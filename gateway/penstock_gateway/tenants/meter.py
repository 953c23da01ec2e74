"""What a tenant has used of its limits, and what it is told about that. No clock of its own."""

from dataclasses import dataclass, field

from penstock_contract import headers
from penstock_contract.api.tenant import Limits
from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.tenants.bucket import Bucket

CONCURRENCY_RETRY_AFTER = 1.0
"""Seconds; nobody knows when a request of the tenant will end."""


class LimitReached(ApiError):
    """A refusal for now, with what is left of every limit."""

    def __init__(self, message: str, retry_after: float, left: dict[str, str]) -> None:
        super().__init__(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=retry_after)
        self._left = left

    def headers(self) -> dict[str, str]:
        """Return retry and rate-limit headers."""
        return {**super().headers(), **self._left}


@dataclass
class Meter:
    """The use of one tenant. Times are monotonic seconds."""

    limits: Limits = field(default_factory=Limits)
    running: int = 0
    elsewhere: int = 0
    """Requests under way in other processes of this gateway."""
    requests: Bucket | None = None
    tokens: Bucket | None = None
    begun: int = 0
    """Requests ever taken from the bucket, here, less those given back."""
    spent: int = 0
    """Tokens, less those given back."""

    @property
    def limited(self) -> bool:
        """Whether there is anything to tell a client of."""
        return self.requests is not None or self.tokens is not None

    def limit(self, limits: Limits, now: float) -> None:
        """Take over new limits; what was used stays used."""
        if limits == self.limits:
            return
        self.limits = limits
        self.requests = _resized(self.requests, limits.requests_per_minute, now)
        self.tokens = _resized(self.tokens, limits.tokens_per_minute, now)

    def begin(self, now: float) -> None:
        """Count a request in.

        Raises:
            LimitReached: there are too many of them, at once or in a minute.
        """
        most = self.limits.concurrency
        if most is not None and self.running + self.elsewhere >= most:
            message = f"{most} requests of this API key's tenant are under way, as many as may be."
            raise LimitReached(message, CONCURRENCY_RETRY_AFTER, self.left(now))
        self.count(now)
        self.running += 1

    def count(self, now: float) -> None:
        """Count a request that does not run.

        Raises:
            LimitReached: there are too many of them in a minute.
        """
        if self.requests is not None:
            self._refuse_unless(self.requests, 1, "requests", now)
            self.requests = self.requests.take(1, now)
            self.begun += 1

    def uncount(self, now: float) -> None:
        """Give a request back that was counted and comes again."""
        if self.requests is not None:
            self.requests = self.requests.take(-1, now)
            self.begun -= 1

    def reserve(self, tokens: int, now: float) -> int:
        """Set tokens aside that a request may use, a minute's worth at most; return how many.

        `settle` corrects them when it is known what was used.

        Raises:
            LimitReached: there are not as many left.
        """
        if self.tokens is None:
            return 0
        tokens = min(tokens, self.tokens.per_minute)
        self._refuse_unless(self.tokens, tokens, "tokens", now)
        self.tokens = self.tokens.take(tokens, now)
        self.spent += tokens
        return tokens

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Count a request out."""
        self.running -= 1
        if self.tokens is not None:
            self.tokens = self.tokens.take(used - reserved, now)
            self.spent += used - reserved

    def used_elsewhere(self, requests: float, tokens: float, now: float) -> None:
        """Other processes of this gateway have taken so many requests and tokens."""
        if self.requests is not None:
            self.requests = self.requests.take(requests, now)
        if self.tokens is not None:
            self.tokens = self.tokens.take(tokens, now)

    def left(self, now: float) -> dict[str, str]:
        """Return the rate-limit headers."""
        found: dict[str, str] = {}
        if self.requests is not None:
            found |= _told(self.requests, _REQUESTS, now)
        if self.tokens is not None:
            found |= _told(self.tokens, _TOKENS, now)
        return found

    def _refuse_unless(self, bucket: Bucket, amount: int, what: str, now: float) -> None:
        wait = bucket.wait(amount, now)
        if wait > 0:
            message = (
                f"Rate limit: {bucket.per_minute} {what} per minute, {_whole(bucket, now)} are left"
                f" and this request needs {amount}; try again in {duration(wait)}."
            )
            raise LimitReached(message, wait, self.left(now))


_REQUESTS = (
    headers.RATE_LIMIT_REQUESTS, headers.RATE_REMAINING_REQUESTS, headers.RATE_RESET_REQUESTS
)  # fmt: skip
_TOKENS = (headers.RATE_LIMIT_TOKENS, headers.RATE_REMAINING_TOKENS, headers.RATE_RESET_TOKENS)


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `120ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _told(bucket: Bucket, names: tuple[str, str, str], now: float) -> dict[str, str]:
    limit, remaining, reset = names
    return {
        limit: str(bucket.per_minute),
        remaining: str(_whole(bucket, now)),
        reset: duration(bucket.reset(now)),
    }


def _whole(bucket: Bucket, now: float) -> int:
    return max(0, int(bucket.left(now)))


def _resized(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    return bucket.resized(per_minute, now) if bucket else Bucket.full(per_minute, now)
