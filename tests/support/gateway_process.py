"""A real `penstock-gateway` on a free port, for tests that talk to it over HTTP."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import httpx
import plain_http
from api_proxy import ApiProxy
from kube import Kube
from ports import free_port
from waiting import PATIENCE

from penstock_contract.fleet import GATEWAY_WORKERS_PATH, GatewayWorkers


class GatewayProcess:
    """The process, where it listens, and what it says."""

    def __init__(
        self, folder: Path, *flags: str | Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (folder / "gateway.log").open("w+")
        self.process: subprocess.Popen[bytes] | None = None
        self.starter: tuple[str, ...] = ()
        """What starts it, like `nice`."""
        self._flags = flags
        self._environment = {**os.environ, **(environment or {})}

    def spawn(self) -> None:
        """Start it without waiting for anything."""
        program = Path(sys.executable).with_name("penstock-gateway")
        command: list[str | Path] = [*self.starter, program, "--port", str(self.port), *self._flags]
        self.process = subprocess.Popen(command, stderr=self.log, env=self._environment)

    async def start(self) -> None:
        """Start it and wait until it knows its fleet."""
        self.spawn()
        await self.until(self.listening)

    async def listening(self) -> bool:
        try:
            return bool((await self.get("/health")).status_code == 200)
        except httpx.TransportError:
            return False

    async def get(self, path: str) -> httpx.Response:
        async with plain_http.client(self.url) as client:
            return await client.get(path)

    async def workers(self) -> GatewayWorkers:
        """Return what it has on its workers."""
        return GatewayWorkers.model_validate_json((await self.get(GATEWAY_WORKERS_PATH)).content)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric."""
        total = 0.0
        for line in (await self.get("/metrics")).text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    async def raw(
        self,
        data: bytes,
        quiet: float = 60.0,
        answer: bytearray | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> bytes:
        """Send bytes and return all that comes back until the gateway closes.

        Where it may wait for more instead, it is left when it has answered and is quiet for so
        many seconds while nobody is busy. What has come so far is in `answer` at any time.
        """
        found = bytearray() if answer is None else answer
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                piece = await asyncio.wait_for(reader.read(1 << 16), quiet if found else 60.0)
            except TimeoutError:
                if busy() and time.monotonic() < deadline:
                    continue
                break
            if not piece:
                break
            found += piece
        writer.close()
        return bytes(found)

    def said(self) -> str:
        """Return what it has logged."""
        self.log.seek(0)
        return self.log.read()

    @staticmethod
    async def until(condition: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(patience):
            while not await condition():
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def wait(self, patience: float) -> int:
        """Return the exit status."""
        assert self.process is not None
        return self.process.wait(patience)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@contextlib.asynccontextmanager
async def watching(
    folder: Path, kube: Kube, proxy: ApiProxy, *flags: str
) -> AsyncIterator[GatewayProcess]:
    """Yield a gateway that watches a namespace, through the proxy."""
    found = GatewayProcess(
        folder,
        *("--kubernetes", "--namespace", kube.namespace, *flags),
        environment={"KUBECONFIG": str(proxy.kubeconfig(folder / "kubeconfig"))},
    )
    try:
        await found.start()
        yield found
    finally:
        found.stop()
