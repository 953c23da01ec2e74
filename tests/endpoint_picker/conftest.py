"""A real picker process behind a real Envoy, in front of stub workers."""

import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import envoy_process
import pytest
from envoy_process import EnvoyProcess
from picker_process import PickerProcess
from stub_worker import StubWorker

MISSING = "no gRPC or no Envoy here: install the extras endpoint-picker and dev"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    there = importlib.util.find_spec("grpc") and envoy_process.binary()
    for item in items:
        if Path(__file__).parent in item.path.parents and not there:
            item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Front:
    """An Envoy and its picker, which tests of a module share."""

    def __init__(self, picker: PickerProcess, envoy: EnvoyProcess) -> None:
        self.picker = picker
        self.envoy = envoy

    @property
    def url(self) -> str:
        """Where clients ask."""
        return self.envoy.url

    async def serve(self, *workers: StubWorker, **options: Any) -> None:
        """Have the picker know these workers, and no others."""
        self.picker.write(*((f"w{worker.port}", worker.url) for worker in workers), **options)
        await self.picker.followed()


@pytest.fixture(scope="module")
async def picker(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[PickerProcess]:
    found = PickerProcess(tmp_path_factory.mktemp("picker"), "--max-body", "4Mi")
    try:
        await found.start()
        yield found
    finally:
        found.stop()


Envoys = Callable[..., EnvoyProcess]


@pytest.fixture(scope="module")
def envoys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoys]:
    """Starts Envoys in front of a picker."""
    started: list[EnvoyProcess] = []

    def start(picker: PickerProcess, **options: Any) -> EnvoyProcess:
        found = EnvoyProcess(tmp_path_factory.mktemp("envoy"), picker.grpc_port, **options)
        started.append(found)
        found.start()
        return found

    yield start
    for found in started:
        found.stop()


@pytest.fixture(scope="module")
def front(picker: PickerProcess, envoys: Envoys) -> Front:
    return Front(picker, envoys(picker))
