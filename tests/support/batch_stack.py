"""A gateway and a batch service that know each other, for tests with OpenAI's client."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import plain_http
from gateway_process import GatewayProcess
from ports import free_port
from tenants_file import TenantsFile

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetQueue, FleetWorker
from penstock_contract.on_behalf import ENVIRONMENT

TOKEN = "a-token-of-tests-only"
MODEL = "pydoc"
CHAT: Final = "/v1/chat/completions"
QUEUE = FleetQueue(per_worker=8, max_requests=16, timeout=120, cold_start_timeout=120)
"""A worker runs eight requests, six of them of batches."""


class BatchService:
    """The process, and what it says."""

    def __init__(self, folder: Path, gateway: str, *flags: str) -> None:
        self.folder = folder / "batches"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "batches.log").open("w+")
        self._process: subprocess.Popen[bytes] | None = None
        program = str(Path(sys.executable).with_name("penstock-batches"))
        self.command = [program, "--folder", str(self.folder), "--port", str(self.port)]
        self.command += ["--gateway", gateway, *flags]
        self.environment = {**os.environ, ENVIRONMENT: TOKEN}

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self.command, stderr=self._log, env=self.environment)
        await GatewayProcess.until(self._answers)

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric."""
        total = 0.0
        async with plain_http.client(self.url) as client:
            text = (await client.get("/metrics")).text
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{found}"' in series for label, found in labels.items())
            if series.partition("{")[0] == name and wanted:
                total += float(value)
        return total

    def kill(self) -> None:
        """End it without a warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Tell it to end; return its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)

    def said(self) -> str:
        """Return what it has logged."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        """End it if it lives."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._log.close()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        try:
            async with plain_http.client(self.url) as client:
                return (await client.get("/health")).status_code == 200
        except httpx.TransportError:
            return False


class Stack:
    """Gateway, batch service, and how tenants talk to them."""

    def __init__(self, folder: Path, *flags: str, gateway_flags: Sequence[str] = ()) -> None:
        self._fleet, self._tenants = folder / "fleet.json", TenantsFile(folder / "tenants.yaml")
        self._generation = 0
        self.serve(())
        port = free_port()
        self.service = BatchService(folder, f"http://127.0.0.1:{port}", *flags)
        self._own: tuple[str | Path, ...] = (
            *("--fleet", self._fleet),
            *("--tenants", self._tenants.path),
            *("--batches", self.service.url),
            *gateway_flags,
        )
        self.gateway = self.another_gateway(folder)
        self.gateway.port, self.gateway.url = port, f"http://127.0.0.1:{port}"
        self._clients: list[openai.AsyncOpenAI] = []

    def another_gateway(self, folder: Path) -> GatewayProcess:
        """Return a gateway of the same fleet, not started."""
        return GatewayProcess(folder, *self._own, environment={ENVIRONMENT: TOKEN})

    async def start(self) -> None:
        """Start both."""
        await asyncio.gather(self.gateway.start(), self.service.start())

    def serve(
        self, urls: Iterable[str], queue: FleetQueue | None = QUEUE, tpot: float | None = None
    ) -> None:
        """Tell the gateway of workers, and of an objective."""
        self._generation += 1
        workers = tuple(
            FleetWorker(id=url, url=url, deployment="d", pool="p", role=Role.UNIFIED)
            for url in urls
        )
        model = FleetModel(name=MODEL, deployment="d", queue=queue, tpot=tpot)
        Fleet(generation=self._generation, models=(model,), workers=workers).write(self._fleet)

    def admit(self, **specs: Mapping[str, Any]) -> None:
        """Tell the gateway of tenants; the key of each is its name behind `sk-`."""
        self._tenants.write(**specs)

    async def known(self, name: str) -> openai.AsyncOpenAI:
        """Return a tenant's client, when the gateway knows the tenant."""
        client, stranger = self.client(name), self.client("stranger")

        async def opens(one: openai.AsyncOpenAI) -> bool:
            try:
                await one.models.list()
            except openai.AuthenticationError:
                return False
            return True

        async def closed_but_to_it() -> bool:
            return await opens(client) and not await opens(stranger)

        await self.gateway.until(closed_but_to_it)
        return client

    def client(self, name: str = "nobody") -> openai.AsyncOpenAI:
        """Return a client with a key."""
        found = openai.AsyncOpenAI(
            base_url=f"{self.gateway.url}/v1", api_key=f"sk-{name}", max_retries=0
        )
        self._clients.append(found)
        return found

    async def close(self) -> None:
        """End everything."""
        for client in self._clients:
            await client.close()
        self.service.close()
        self.gateway.stop()


@contextlib.asynccontextmanager
async def stack(
    folder: Path, *flags: str, gateway_flags: Sequence[str] = ()
) -> AsyncIterator[Stack]:
    """Start a stack, and end it whatever happens; flags are the service's."""
    found = Stack(folder, *flags, gateway_flags=gateway_flags)
    try:
        await found.start()
        yield found
    finally:
        await found.close()


def line(custom_id: str, content: str = "What is a list?", **changes: Any) -> dict[str, Any]:
    """Return a request of a batch; fields of its body can be changed."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {**body, **changes}}


def jsonl(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Return an input file."""
    return b"".join(json.dumps(found).encode() + b"\n" for found in lines)


async def ordered(client: openai.AsyncOpenAI, content: bytes, **changes: Any) -> Any:
    """Upload a file and create a batch of it."""
    file = await client.files.create(file=("input.jsonl", content), purpose="batch")
    wanted = {"endpoint": CHAT, "completion_window": "24h", **changes}
    return await client.batches.create(input_file_id=file.id, **wanted)


async def until(client: openai.AsyncOpenAI, batch_id: str, *statuses: str) -> Any:
    """Return a batch when it has one of these statuses."""

    async def reached() -> bool:
        return (await client.batches.retrieve(batch_id)).status in statuses

    await GatewayProcess.until(reached)
    return await client.batches.retrieve(batch_id)


async def results(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the lines of an output or error file."""
    if file_id is None:
        return []
    text = (await client.files.content(file_id)).text
    return [json.loads(found) for found in text.splitlines()]
