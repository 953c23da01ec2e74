"""A real gateway process in front of stub workers."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from stub_worker import StubWorker

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetCanary, FleetModel, FleetWorker, WorkerState


class Gateway:
    """A gateway process and the fleet file that it reads."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.fleet_file = folder / "fleet.json"
        self.generation = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder / "gateway.log").open("w+")
        self._flags = flags
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it with an empty fleet and wait until it has read it."""
        self.generation += 1
        Fleet(generation=self.generation).write(self.fleet_file)
        command = [
            Path(sys.executable).with_name("penstock-gateway"),
            *("--fleet", self.fleet_file, "--port", str(self.port), *self._flags),
        ]
        self.process = subprocess.Popen(command, stderr=self.log)
        await self.until(self.listening)

    async def listening(self) -> bool:
        try:
            return bool((await self.get("/health")).status_code == 200)
        except httpx.TransportError:
            return False

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return await client.get(path)

    async def serve(
        self,
        *workers: StubWorker,
        draining: tuple[StubWorker, ...] = (),
        revisions: Mapping[StubWorker, str] | None = None,
        roles: Mapping[StubWorker, Role] | None = None,
        canary: FleetCanary | None = None,
    ) -> None:
        """Write a fleet of these workers and wait until the gateway follows it."""
        self.generation += 1
        Fleet(
            generation=self.generation,
            models=(FleetModel(name="m", aliases=("org/alias",), deployment="d", canary=canary),),
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
            self.log.seek(0)
            return f"fleet {self.generation}:" in self.log.read()

        await self.until(followed)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric."""
        total = 0.0
        for line in (await self.get("/metrics")).text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    async def raw(self, data: bytes) -> bytes:
        """Send bytes and return all that comes back until the gateway closes or pauses."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        found = b""
        try:
            async with asyncio.timeout(1.0):
                while piece := await reader.read(1 << 16):
                    found += piece
        except TimeoutError:
            pass
        writer.close()
        return found

    @staticmethod
    async def until(condition: Any, patience: float = 20.0) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(patience):
            while not await condition():
                await asyncio.sleep(0.02)

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def gateway(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Gateway]:
    found = Gateway(tmp_path, "--max-body", "100k", "--debug-headers")
    try:
        await found.start()
        yield found
    finally:
        found.stop()
