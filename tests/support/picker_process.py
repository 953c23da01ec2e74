"""A real `penstock-endpoint-picker` on free ports, and the fleet file that it reads."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway_process import GatewayProcess
from ports import free_port

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetCanary, FleetModel, FleetQueue, FleetWorker


class PickerProcess(GatewayProcess):
    """The process: `url` and `port` are those of its HTTP side."""

    def __init__(
        self, folder: Path, *flags: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.fleet_file = folder / "fleet.json"
        self.generation = 0
        super().__init__(folder, "--fleet", self.fleet_file, *flags, environment=environment)
        self.grpc_port = free_port()

    def spawn(self) -> None:
        """Start it without waiting for anything."""
        if not self.fleet_file.exists():
            self.write()
        program = Path(sys.executable).with_name("penstock-endpoint-picker")
        command: list[str | Path] = [program, "--port", str(self.grpc_port)]
        command += ["--http-port", str(self.port), *self._flags]
        self.process = subprocess.Popen(command, stderr=self.log, env=self._environment)

    def write(
        self,
        *workers: tuple[str, str],
        queue: FleetQueue | None = None,
        canary: FleetCanary | None = None,
        roles: Mapping[str, Role] | None = None,
        revisions: Mapping[str, str] | None = None,
        tpot: float | None = None,
        name: str = "m",
        aliases: Sequence[str] = ("org/alias",),
    ) -> None:
        """Write a fleet of workers (id, URL); `roles` and `revisions` are by id."""
        self.generation += 1
        model = FleetModel(
            name=name,
            aliases=tuple(aliases),
            adapters=("sql",),
            deployment="d",
            queue=queue,
            canary=canary,
            tpot=tpot,
        )
        Fleet(
            generation=self.generation,
            models=(model,),
            workers=tuple(
                FleetWorker(
                    id=id_,
                    url=url,
                    deployment="d",
                    pool="p",
                    role=(roles or {}).get(id_, Role.UNIFIED),
                    revision=(revisions or {}).get(id_, ""),
                )
                for id_, url in workers
            ),
        ).write(self.fleet_file)

    async def followed(self) -> None:
        """Wait until it knows the fleet that was written last."""

        async def is_followed() -> bool:
            return f"fleet {self.generation}:" in self.said()

        await self.until(is_followed)

    async def listens_no_more(self) -> bool:
        """Whether Envoy can ask it nothing new."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.grpc_port)
        except ConnectionError:  # refused; or reset, where it stops just now
            return True
        writer.close()
        return False
