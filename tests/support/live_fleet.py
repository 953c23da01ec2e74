"""Real workers behind real gateways, for accidents: what dies is replaced, as a runtime would."""

import asyncio
import contextlib
import itertools
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import plain_http
from fault_proxy import FaultProxy
from gateway_process import GatewayProcess
from ports import free_port
from worker_process import COMMAND, EXAMPLE_MODEL, NAME

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetQueue, FleetWorker, WorkerState


@dataclass(eq=False)
class LiveWorker:
    """A worker process; gateways reach it through a proxy that can fail."""

    id: str
    port: int
    process: subprocess.Popen[bytes]
    proxy: FaultProxy
    log: Path
    state: WorkerState = WorkerState.READY

    async def healthy(self) -> bool:
        """Return whether it takes requests; one that has ended never will."""
        if self.process.poll() is not None:
            raise RuntimeError(f"a worker ended: {self.log.read_text()[-2000:]}")
        try:
            answer = await self._get("/health")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that carry these labels."""
        text = (await self._get("/metrics")).text
        total = 0.0
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{value_}"' in series for label, value_ in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    async def _get(self, path: str) -> httpx.Response:
        async with plain_http.client(f"http://127.0.0.1:{self.port}") as client:
            return await client.get(path)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)


@dataclass
class LiveFleet:
    """Workers, the gateways in front of them, and the file that tells these about those."""

    folder: Path
    worker_flags: Sequence[str] = ()
    gateway_flags: Sequence[str] = ()
    queue: FleetQueue | None = None
    attempts: int = FleetModel.model_fields["attempts"].default
    workers: list[LiveWorker] = field(default_factory=list)
    gateways: list[GatewayProcess] = field(default_factory=list)
    _generation: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def file(self) -> Path:
        """The fleet file."""
        return self.folder / "fleet.json"

    @property
    def ready(self) -> list[LiveWorker]:
        """Workers that take requests, as far as the gateways are told."""
        return [worker for worker in self.workers if worker.state is WorkerState.READY]

    async def start(self, workers: int, gateways: int) -> None:
        """Start all processes and wait until they serve."""
        found = [await self._spawn(free_port()) for _ in range(workers)]
        self._write()
        await asyncio.gather(
            *(self._until_healthy(worker) for worker in found),
            *(self.add_gateway(self.folder / f"gateway-{number}") for number in range(gateways)),
        )
        self.workers += found
        await self.publish()

    async def add_gateway(self, folder: Path) -> GatewayProcess:
        """Start one more gateway."""
        folder.mkdir()
        gateway = GatewayProcess(
            folder, "--fleet", self.file, "--debug-headers", *self.gateway_flags
        )
        self._stack.callback(gateway.stop)
        await gateway.start()
        self.gateways.append(gateway)
        return gateway

    async def replace(self, worker: LiveWorker) -> LiveWorker:
        """Start a worker in the place of one that has ended, with a new id at the same address."""
        fresh = await self._spawn(worker.port, worker.proxy)
        await self._until_healthy(fresh)
        self.workers[self.workers.index(worker)] = fresh
        await self.publish()
        return fresh

    async def publish(self) -> None:
        """Tell the gateways which workers there are, and wait until they know."""
        self._write()
        wanted = self._generation

        async def followed() -> bool:
            alive = [g for g in self.gateways if g.process and g.process.poll() is None]
            return all(_followed(gateway) >= wanted for gateway in alive)

        await GatewayProcess.until(followed)

    async def stop(self) -> None:
        """End everything."""
        await self._stack.aclose()

    def _write(self) -> None:
        self._generation += 1
        workers = tuple(
            FleetWorker(
                id=worker.id,
                url=worker.proxy.url,
                deployment="d",
                pool="p",
                role=Role.UNIFIED,
                state=worker.state,
            )
            for worker in self.workers
        )
        model = FleetModel(name=NAME, deployment="d", queue=self.queue, attempts=self.attempts)
        Fleet(generation=self._generation, models=(model,), workers=workers).write(self.file)

    async def _spawn(self, port: int, proxy: FaultProxy | None = None) -> LiveWorker:
        number = next(self._numbers)
        # Gateways have cores of their own elsewhere; here they at least come first.
        command: list[str | Path] = ["nice", "-n", "5", COMMAND]
        command += ["--model", EXAMPLE_MODEL, "--served-model-name", NAME]
        command += ["--port", str(port), "--threads", "1", *self.worker_flags]
        log = self.folder / f"worker-{number}.log"
        process = subprocess.Popen(command, stderr=self._stack.enter_context(log.open("wb")))
        self._stack.callback(_end, process)
        if proxy is None:
            proxy = await self._stack.enter_async_context(FaultProxy(port))
        return LiveWorker(f"w{number}", port, process, proxy, log)

    @staticmethod
    async def _until_healthy(worker: LiveWorker) -> None:
        await GatewayProcess.until(worker.healthy, 300)


@contextlib.asynccontextmanager
async def live_fleet(fleet: LiveFleet, workers: int, gateways: int) -> AsyncIterator[LiveFleet]:
    """Start a fleet, and end it whatever happens."""
    try:
        await fleet.start(workers, gateways)
        yield fleet
    finally:
        await fleet.stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    # A stopped process takes SIGKILL, too.
    process.kill()
    process.wait()


def _followed(gateway: GatewayProcess) -> int:
    """Return the latest generation that a gateway says it knows; it may have skipped others."""
    return max(map(int, re.findall(r"fleet (\d+):", gateway.said())), default=0)
