"""Bounds the bytes of request bodies that are held for all clients together.

Each body has a bound of its own; a few hundred of them at once would still take all memory. When
there are too many bytes, the largest body that is still coming is let go: whoever sends much and
slowly, and never a request that is whole.
"""

from typing import Final, Protocol

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.instruments import Number

RETRY_AFTER: Final = 1
"""Seconds, as a client is told."""
USUALLY: Final = 128 << 20
"""Bytes of all bodies, where nobody says how many."""


def bytes_of_all(wanted: int | None, each: int, processes: int = 1) -> int:
    """Return how many bytes all bodies together may have.

    Args:
        wanted: by who started the gateway; None leaves it to what the largest bodies take.
        each: bytes of the largest body.
        processes: each of which has an equal part, and must have room for a body.

    Raises:
        ValueError: so many bytes do not hold a body.
    """
    if wanted is None:
        return max(USUALLY, processes * each)
    if wanted < each:
        raise ValueError("must not be less than --max-body")
    if wanted // processes < each:
        least = -(-processes * each // (1 << 20))
        part = "each of --processes has an equal part, which must not be less than --max-body"
        raise ValueError(f"{part}: give {least}Mi or more, or leave it out")
    return wanted


class Upload(Protocol):
    """A request whose body is coming."""

    def shed(self, error: ApiError) -> None:
        """Let go of what has come of the body, give it back, and refuse the request."""


class Bodies:
    """All bodies that are held.

    Args:
        most: bytes.
        held: how many there are; a metric.
    """

    def __init__(self, most: int, held: Number) -> None:
        self.most = most
        self.held = held
        self._coming: dict[Upload, int] = {}

    def grow(self, upload: Upload, size: int) -> None:
        """So many bytes have come; that may be too many for this one or another."""
        self.held.inc(size)
        self._coming[upload] = self._coming.get(upload, 0) + size
        while self.held.value > self.most and self._coming:
            largest = max(self._coming, key=self._coming.__getitem__)
            message = "The gateway holds as many bytes of requests as it may."
            largest.shed(ApiError(ErrorCode.NO_CAPACITY, message, retry_after=RETRY_AFTER))

    def whole(self, upload: Upload) -> None:
        """All of it has come."""
        self._coming.pop(upload, None)

    def give_back(self, upload: Upload, size: int) -> None:
        """So many bytes are held no longer, and no more will come."""
        self.held.dec(size)
        self._coming.pop(upload, None)
