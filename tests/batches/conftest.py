"""A batch service behind a real gateway, in front of stub workers or real ones."""

from collections.abc import AsyncIterator
from pathlib import Path

import batch_stack
import pytest
from batch_stack import Stack
from stub_worker import StubWorker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def stack(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Stack]:
    """Nobody is served yet."""
    async with batch_stack.stack(tmp_path) as found:
        yield found


@pytest.fixture
async def served(stack: Stack, anyio_backend: str) -> AsyncIterator[Stack]:
    """A worker answers everything at once."""
    async with StubWorker("json") as worker:
        stack.serve([worker.url])
        yield stack
