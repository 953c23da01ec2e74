"""Reads an upload straight into a file, without keeping it."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from fastapi.concurrency import run_in_threadpool

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.form import Bounds, Form, FormReader

IGNORED: Final = 4
"""Times the bytes of a file are read on from a refused client, so that it reads the refusal."""
MOST_AT_ONCE: Final = 4
"""Uploads of a tenant; what is under way is not among what it has stored."""


class Uploads:
    """Counts those under way."""

    def __init__(self) -> None:
        self._under_way = Counter[str]()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Count one for as long as it takes.

        Raises:
            ApiError: the tenant has too many.
        """
        if self._under_way[tenant] >= MOST_AT_ONCE:
            message = f"{MOST_AT_ONCE} uploads are under way, as many as may be."
            raise ApiError(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=1.0)
        self._under_way[tenant] += 1
        try:
            yield
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]


class Upload:
    """Reads one body.

    Args:
        content_type: of the request.
        target: where the file goes.
        most: bytes that it may have.

    Raises:
        ApiError: it is no form.
    """

    def __init__(self, content_type: str, target: BinaryIO, most: int) -> None:
        self._most = most
        self._reader = FormReader(content_type, Bounds(most), target)

    async def read(self, body: AsyncIterator[bytes]) -> Form:
        """Return what a body holds, when it is whole.

        Raises:
            ApiError: it is too large, or not what it should be.
        """
        try:
            async for piece in body:
                # In a thread: it takes time, and a disk that is behind makes writers wait.
                await run_in_threadpool(self._reader.feed, piece)
        except ApiError:
            await _ignore(body, self._most * IGNORED)
            raise
        return self._reader.close()


async def _ignore(body: AsyncIterator[bytes], most: int) -> None:
    async for piece in body:
        most -= len(piece)
        if most < 0:
            return
