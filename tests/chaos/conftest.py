"""A real gateway in front of real workers, with accidents between them."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from gateway_process import GatewayProcess
from worker_process import NAME

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetDisaggregation, FleetModel, FleetWorker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Gateway(GatewayProcess):
    """A gateway process and the fleet file that it reads."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.fleet_file = folder / "fleet.json"
        self.generation = 1
        Fleet(generation=1).write(self.fleet_file)
        super().__init__(folder, "--fleet", self.fleet_file, "--debug-headers", *flags)

    async def serve(
        self,
        *urls: str,
        roles: Mapping[str, Role] | None = None,
        disaggregation: FleetDisaggregation | None = None,
    ) -> None:
        """Write a fleet of the workers at these addresses and wait until the gateway follows it."""
        self.generation += 1
        Fleet(
            generation=self.generation,
            models=(
                FleetModel(
                    name=NAME,
                    deployment="d",
                    disaggregation=disaggregation or FleetDisaggregation(),
                ),
            ),
            workers=tuple(
                FleetWorker(
                    id=url.rpartition(":")[2],
                    url=url,
                    deployment="d",
                    pool="p",
                    role=(roles or {}).get(url, Role.UNIFIED),
                )
                for url in urls
            ),
        ).write(self.fleet_file)

        async def followed() -> bool:
            return f"fleet {self.generation}:" in self.said()

        await self.until(followed)


@pytest.fixture
async def gateway(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Gateway]:
    found = Gateway(tmp_path)
    try:
        await found.start()
        yield found
    finally:
        found.stop()
