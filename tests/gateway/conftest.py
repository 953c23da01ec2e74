"""A real gateway process in front of stub workers."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from gateway_process import GatewayProcess
from stub_worker import StubWorker

from penstock_contract.api import Role
from penstock_contract.api.engine import EngineType, Task
from penstock_contract.fleet import (
    Fleet,
    FleetCanary,
    FleetDisaggregation,
    FleetModel,
    FleetQueue,
    FleetWorker,
    WorkerState,
)


class Gateway(GatewayProcess):
    """A gateway process and the fleet file that it reads."""

    def __init__(
        self, folder: Path, *flags: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.fleet_file = folder / "fleet.json"
        self.generation = 0
        super().__init__(folder, "--fleet", self.fleet_file, *flags, environment=environment)

    async def start(self) -> None:
        """Start it with an empty fleet and wait until it has read it."""
        self.generation += 1
        Fleet(generation=self.generation).write(self.fleet_file)
        await super().start()

    async def serve(
        self,
        *workers: StubWorker,
        draining: tuple[StubWorker, ...] = (),
        revisions: Mapping[StubWorker, str] | None = None,
        roles: Mapping[StubWorker, Role] | None = None,
        canary: FleetCanary | None = None,
        queue: FleetQueue | None = None,
        disaggregation: FleetDisaggregation | None = None,
        tpot: float | None = None,
        ttft: float | None = None,
        task: Task = Task.AUTO,
        engine: EngineType = EngineType.PENSTOCK,
        resume_streams: bool = True,
        parsers: tuple[str, ...] = (),
    ) -> None:
        """Write a fleet of these workers and wait until the gateway follows it."""
        self.generation += 1
        model = FleetModel(
            name="m",
            aliases=("org/alias",),
            adapters=("sql",),
            deployment="d",
            canary=canary,
            queue=queue,
            disaggregation=disaggregation or FleetDisaggregation(),
            tpot=tpot,
            ttft=ttft,
            task=task,
            engine=engine,
            resume_streams=resume_streams,
            parsers=parsers,
        )
        Fleet(
            generation=self.generation,
            models=(model,),
            workers=tuple(
                FleetWorker(
                    id=f"w{worker.port}",
                    url=worker.url,
                    deployment="d",
                    pool="p",
                    role=(roles or {}).get(worker, Role.UNIFIED),
                    revision=(revisions or {}).get(worker, ""),
                    state=WorkerState.DRAINING if worker in draining else WorkerState.READY,
                )
                for worker in workers
            ),
        ).write(self.fleet_file)

        async def followed() -> bool:
            return f"fleet {self.generation}:" in self.said()

        await self.until(followed)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def gateway_type() -> type[Gateway]:
    """What makes gateways, for tests that start their own."""
    return Gateway


FLAGS = ("--max-body", "100k", "--debug-headers")


@pytest.fixture
async def own(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Gateway]:
    """One for the test alone, which may count what it did, and end it."""
    found = Gateway(tmp_path, *FLAGS)
    try:
        await found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests of a module that do not ask what it did before."""
    found = Gateway(tmp_path_factory.mktemp("gateway"), *FLAGS)
    try:
        asyncio.run(found.start())
        yield found
    finally:
        found.stop()


@pytest.fixture
def gateway(own: Gateway) -> Gateway:
    """A gateway; modules for which a shared one is enough say so."""
    return own
