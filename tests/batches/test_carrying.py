"""How batches are carried from step to step, with a gateway that says what the test wants."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from prometheus_client import CollectorRegistry

from penstock_contract.on_behalf import Seals
from penstock_gateway.batches import steadiness
from penstock_gateway.batches.batch import Batch, Status
from penstock_gateway.batches.database import Database
from penstock_gateway.batches.files import File, Files
from penstock_gateway.batches.gateway_client import Answer, GatewayClient
from penstock_gateway.batches.keeper import Keeper
from penstock_gateway.batches.lines import Request
from penstock_gateway.batches.metrics import BatchMetrics
from penstock_gateway.batches.steps import validate
from penstock_gateway.batches.store import BatchStore

pytestmark = pytest.mark.anyio

URL = "/v1/completions"


class Gateway(GatewayClient):
    """Answers at once, unless the prompt is refused."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", Seals(), 1)
        self.refused = ""

    async def ask(self, tenant: str, endpoint: str, request: Request) -> Answer:
        return Answer(503 if json.loads(request.content)["prompt"] == self.refused else 200)


class SlowFiles(Files):
    """Lets a file be written when it may."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.may = threading.Event()
        self.writing = 0
        self.most = 0
        """Files that were written at the same time."""

    @contextmanager
    def written(self, file_id: str) -> Iterator[BinaryIO]:
        self.writing += 1
        self.most = max(self.most, self.writing)
        try:
            assert self.may.wait(60)
            with super().written(file_id) as content:
                yield content
        finally:
            self.writing -= 1


class Told(BatchMetrics):
    """Knows whether it was told what is stored, which is when all else was looked at."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.told = False

    def stored(self, files: int, size: int) -> None:
        super().stored(files, size)
        self.told = True


class Service:
    """A keeper with one batch of ten requests."""

    def __init__(self, folder: Path) -> None:
        database = Database(folder)
        self.files, self.store = SlowFiles(database), BatchStore(database)
        self.files.may.set()
        lines = [
            json.dumps(
                {
                    "custom_id": f"c{number}",
                    "method": "POST",
                    "url": URL,
                    "body": {"model": "m", "prompt": f"p{number}"},
                }
            )
            for number in range(10)
        ]
        with self.files.written("file-1") as content:
            content.write("\n".join(lines).encode())
        now = int(time.time())
        self.store.add(Batch("batch_1", "ann", URL, "file-1", "24h", now, now + 86400))
        self.gateway = Gateway()
        self.keeper = Keeper(
            self.files, self.store, self.gateway, 4, BatchMetrics(CollectorRegistry())
        )

    @property
    def batch(self) -> Batch:
        found = self.store.find("batch_1")
        assert found is not None
        return found

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.01)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_request_that_is_always_refused_keeps_no_other_waiting(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.gateway.refused = "p0"
    keeping = asyncio.create_task(service.keeper.run())
    await service.until(lambda: service.batch.counts.completed == 9)
    assert service.batch.status is Status.IN_PROGRESS
    service.gateway.refused = ""
    await service.until(lambda: service.batch.status is Status.COMPLETED)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_the_files_of_a_batch_are_not_written_twice_at_once(tmp_path: Path) -> None:
    service = Service(tmp_path)
    validate(service.batch, service.files, service.store)
    service.store.move("batch_1", Status.CANCELLING, time.time())
    service.files.may.clear()
    keeping = asyncio.create_task(service.keeper.run())
    await service.until(lambda: service.files.writing == 1)
    service.keeper.interrupt("batch_1")
    await asyncio.sleep(0.1)  # in which nobody may begin to write it again
    service.files.may.set()
    await service.until(lambda: service.batch.status is Status.CANCELLED)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert service.files.most == 1
    lines = service.files.path(service.batch.error_file or "").read_text().splitlines()
    assert len(lines) == 10


async def test_a_clock_that_is_not_believed_yet_deletes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path)
    service.files.put(File("file-2", "ann", "batch", "a", 1, 100, 150))

    async def cleaned() -> bool:
        metrics = Told()
        keeper = Keeper(service.files, service.store, service.gateway, 4, metrics)
        keeping = asyncio.create_task(keeper.run())
        await service.until(lambda: metrics.told)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        return service.files.find("ann", "file-2") is None

    assert not await cleaned()
    monkeypatch.setattr(steadiness, "PATIENCE", 0.0)
    assert await cleaned()
