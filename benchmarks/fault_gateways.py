"""Accidents of gateways and of clients, for benchmarks/faults.py."""

import asyncio
import json
import time
from typing import Final
from urllib.parse import urlsplit

from fault_stage import Accident, Stage
from fault_workers import LAST_STREAMS, QUESTION
from gateway_process import GatewayProcess
from growth import descriptors
from stream_auditor import record

COMPLETIONS: Final = "/v1/completions"
KEPT: Final = 64
"""Connections to workers that a gateway may keep over."""


async def retire_a_gateway(stage: Stage) -> None:
    """F5: a gateway is told to go, and finishes its streams."""
    gateway = await _amid(stage)
    stage.report.silent.add(0)
    gateway.terminate()
    if await asyncio.to_thread(gateway.wait, 60):
        stage.problem("the gateway did not exit with 0")


async def kill_a_gateway(stage: Stage) -> None:
    """F6: a gateway dies; its streams end, the other's do not, and workers are free at once."""
    gateway = await _amid(stage)
    stage.report.silent.add(0)
    stage.report.excused.add(0)
    gateway.kill()
    await stage.over()
    await stage.idle()
    await _free_at_once(stage)


async def _amid(stage: Stage) -> GatewayProcess:
    """Return a gateway in the middle of the load, when streams of it are under way."""
    await asyncio.sleep(stage.left / 2)
    await stage.crowd(lambda: stage.load.under_way(0))
    stage.report.accidents.append(Accident(time.monotonic()))
    stage.report.hit += stage.load.under_way(0)
    return stage.fleet.gateways[0]


async def _free_at_once(stage: Stage) -> None:
    """See after what time workers have freed what a dead gateway's streams held."""
    gateway = await stage.fleet.add_gateway(stage.fleet.folder / "doomed")
    await stage.fleet.publish()
    begun = [asyncio.Event() for _ in range(LAST_STREAMS)]
    reading = [
        asyncio.create_task(record(gateway.url, COMPLETIONS, QUESTION, first_piece=event))
        for event in begun
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    stage.report.hit += sum(not one.done() for one in reading)
    gateway.kill()
    died = time.monotonic()
    await stage.idle()
    stage.report.figures["blocks_freed_after_seconds"] = round(time.monotonic() - died, 2)
    await asyncio.gather(*reading)


async def abandon_streams(stage: Stage) -> None:
    """F19: half as many clients again leave in the middle, some read nothing; nothing leaks."""
    gateways = stage.fleet.gateways
    before = [descriptors(gateway.pid) for gateway in gateways]
    figures = stage.report.figures
    figures["abandoned"] = figures["unread"] = 0
    async with asyncio.TaskGroup() as leaving:
        while stage.left > 1:
            leaving.create_task(leave(stage, stage.random.randrange(len(gateways))))
            if stage.random.random() < 0.3:
                leaving.create_task(read_nothing(stage, stage.random.randrange(len(gateways))))
            await stage.pause(0.1, 0.3)
    await stage.over()
    await stage.idle()
    for gateway in gateways:
        await at_rest(stage, gateway)
    after = [descriptors(gateway.pid) for gateway in gateways]
    if any(now > then + KEPT for now, then in zip(after, before, strict=True)):
        stage.problem(f"descriptors grew from {before} to {after}")


async def leave(stage: Stage, gateway: int) -> None:
    """Ask for a long answer, and go in the middle of it."""
    begun, url = asyncio.Event(), stage.load.urls[gateway]
    reading = asyncio.create_task(record(url, COMPLETIONS, QUESTION, first_piece=begun))
    await begun.wait()
    await stage.pause(0.0, 0.4)
    amid = not reading.done()
    stage.report.hit += amid
    stage.report.figures["abandoned"] += amid
    stage.report.unseen[gateway] += 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def read_nothing(stage: Stage, gateway: int) -> None:
    """Ask for a long answer, read its beginning only, and go after a while."""
    where, body = urlsplit(stage.load.urls[gateway]), json.dumps(QUESTION).encode()
    stage.report.unseen[gateway] += 1
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1024)
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readexactly(12)
    stage.report.figures["unread"] += 1
    await stage.pause(0.5, 2.0)
    writer.transport.abort()


async def at_rest(stage: Stage, gateway: GatewayProcess) -> None:
    """Wait until a gateway counts no request, and complain when it goes on doing so."""

    async def rests() -> bool:
        waiting = await gateway.metric("penstock_gateway_queued")
        return waiting + await gateway.metric("penstock_gateway_in_flight") == 0

    try:
        await GatewayProcess.until(rests)
    except TimeoutError:
        stage.problem("a gateway still counts requests that nobody waits for")
