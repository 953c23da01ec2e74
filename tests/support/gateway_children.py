"""The processes of one gateway (`--processes`), and connections to one of them at a time."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_process import GatewayProcess
from waiting import PATIENCE


@dataclass
class Answer:
    """An answer with a length, or the head of a stream."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Wire:
    """A connection to one process, which it says."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int
    ) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, path: str, payload: Any = None, **headers: str) -> Answer:
        """Send a request; return its answer, without the body if that has no length."""
        body = b"" if payload is None else json.dumps(payload).encode()
        own = {"host": "x", "content-type": "application/json", "content-length": len(body)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**own, **headers}.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        size = int(found.get("content-length", 0))
        return Answer(int(head[0].split()[1]), found, await self._reader.readexactly(size))

    async def rest(self) -> bytes:
        """Return what is left of a stream, as it is on the wire."""
        return await self._reader.readuntil(b"0\r\n\r\n")

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric, as this process tells it."""
        text = (await self.ask("GET", "/metrics")).body.decode()
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition("{")[0].partition(" ")[0] == name
            and all(f'{label}="{value}"' in line for label, value in labels.items())
        )

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def children(gateway: GatewayProcess) -> set[int]:
    """Return the ids of the processes that serve."""
    assert gateway.process is not None
    pid = gateway.process.pid
    return {int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@contextlib.asynccontextmanager
async def wire_to_each(gateway: GatewayProcess, count: int = 2) -> AsyncIterator[list[Wire]]:
    """Yield a connection to each process; which one has a connection is the kernel's choice."""
    found: dict[int, Wire] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                wire = await _wire(gateway)
                if found.setdefault(wire.pid, wire) is not wire:
                    await wire.close()
        yield [found[pid] for pid in sorted(found)]
    finally:
        for wire in found.values():
            await wire.close()


def account_of(gateway: GatewayProcess, pid: int) -> Path:
    """Return the file in which a process leaves what it has counted."""
    sockets = _open(pid)
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        listens = fields[5] == "01"
        if len(fields) > 7 and listens and f"socket:[{fields[6]}]" in sockets:
            account = Path(fields[7]).with_suffix(".json")
            if account.exists():
                return account
    raise LookupError(f"process {pid} of {gateway.url} listens to no sibling")


async def _wire(gateway: GatewayProcess) -> Wire:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    client = writer.get_extra_info("sockname")[1]
    while (owner := _owner(gateway, client)) is None:
        await asyncio.sleep(0.01)
    return Wire(reader, writer, owner)


def _owner(gateway: GatewayProcess, client: int) -> int | None:
    """Return which process has accepted the connection from a port; None: nobody yet."""
    ends = f":{gateway.port:04X}", f":{client:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(ends[0]) and fields[2].endswith(ends[1]):
            wanted = f"socket:[{fields[9]}]"
            return next((pid for pid in children(gateway) if wanted in _open(pid)), None)
    return None


def _open(pid: int) -> set[str]:
    folder, found = Path(f"/proc/{pid}/fd"), set()
    for name in folder.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(os.readlink(name))
    return found
