"""A gateway of two processes: to clients and operators it is one."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_children import Answer, Wire, account_of, children, wire_to_each
from stub_worker import EVENTS, StubWorker
from tenants_file import TenantsFile

from penstock_contract import headers
from penstock_contract.fleet import FleetQueue

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ARRIVALS = "penstock_gateway_arrivals_total"
PROCESSES = "penstock_gateway_processes"


def chatting(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def pair(tmp_path: Path, gateway_type: Any) -> AsyncIterator[Any]:
    """A gateway of two processes."""
    async with running(tmp_path / "pair", gateway_type) as found:
        yield found


@asynccontextmanager
async def running(folder: Path, gateway_type: Any, *flags: str) -> AsyncIterator[Any]:
    """Yield a gateway whose processes know each other."""
    folder.mkdir()
    found = gateway_type(folder, "--processes", "2", "--debug-headers", *flags)

    async def together() -> bool:
        return bool(await found.metric(PROCESSES, state="answering") == 2)

    try:
        await found.start()
        await found.until(together)
        yield found
    finally:
        found.stop()


async def chat(wire: Wire, text: str = "hi", key: str = "", **more: Any) -> Answer:
    return await wire.ask("POST", CHAT, chatting(text, **more), authorization=f"Bearer {key}")


async def test_whichever_process_is_asked_tells_what_all_have_counted(pair: Any) -> None:
    async with StubWorker() as worker:
        await serve(pair, worker)
        async with wire_to_each(pair) as (one, other):
            assert {one.pid, other.pid} == children(pair)
            for wire in (one, other, other):
                assert (await chat(wire)).status == 200
            for wire in (one, other):
                await answered(pair, wire, 3)
                assert await wire.metric("penstock_gateway_time_to_first_byte_seconds_count") == 3
                assert await wire.metric("penstock_gateway_workers") == 1
                told = json.loads((await wire.ask("GET", "/internal/workers")).body)
                (load,) = told["workers"].values()
                assert (load["requests"], load["in_flight"]) == (3, 0)

                async def all_are_shown(wire: Wire = wire) -> bool:
                    page = (await wire.ask("GET", "/status")).body.decode()
                    return len(re.findall("uncached=", page)) == 3

                await pair.until(all_are_shown)


async def test_a_prefix_that_one_process_has_sent_is_known_to_the_other(pair: Any) -> None:
    async with StubWorker() as a, StubWorker() as b:
        await serve(pair, a, b)
        async with wire_to_each(pair) as (one, other):

            async def shared(number: int) -> bool:
                text = f"{number} " * 2000
                first, second = await chat(one, text), await chat(other, text)
                matched = int(re.findall(r"matched=(\d+)", second.headers[headers.ROUTE_REASON])[0])
                workers = {answer.headers[headers.WORKER] for answer in (first, second)}
                return matched > 0 and len(workers) == 1

            async with asyncio.timeout(60):
                number = 0
                while not await shared(number):  # a few milliseconds may pass before it is told
                    number += 1


async def test_what_one_process_has_on_a_worker_counts_for_the_other(pair: Any) -> None:
    async with StubWorker("paused") as a, StubWorker("paused") as b:
        await serve(pair, a, b)
        async with wire_to_each(pair) as (one, other):
            assert (await chat(one, stream=True)).status == 200
            busy, idle = (a, b) if a.seen else (b, a)
            idle.script = busy.script = "json"

            async def keeps_away() -> bool:
                for _ in range(20):  # equal workers are chosen among at random
                    assert (await chat(other)).status == 200
                    if len(busy.seen) > 1:  # the other has not been told yet
                        del busy.seen[1:]
                        return False
                return True

            await pair.until(keeps_away)
            assert len(idle.seen) >= 20


async def test_a_killed_process_comes_back_and_costs_the_other_no_stream(pair: Any) -> None:
    async with StubWorker("paused") as worker:
        await serve(pair, worker)
        async with wire_to_each(pair) as (one, other):
            assert (await chat(one, stream=True)).status == 200
            assert (await chat(other, stream=True)).status == 200
            await answered(pair, pair, 2)
            os.kill(other.pid, signal.SIGKILL)

            async def noticed() -> bool:
                with suppress(httpx.TransportError):  # the one that dies may have been asked
                    return await _in_flight(pair) == 1
                return False

            await pair.until(noticed)

            async def back() -> bool:
                with suppress(httpx.TransportError):
                    assert await pair.metric(ARRIVALS) == 2
                    return bool(await pair.metric(PROCESSES, state="answering") == 2)
                return False

            await pair.until(back)
            assert children(pair) > {one.pid}
            assert other.pid not in children(pair)
            worker.release.set()
            assert EVENTS[-1] in await one.rest()
        worker.script = "json"
        async with wire_to_each(pair) as fresh:
            for wire in fresh:
                assert (await chat(wire)).status == 200
            for wire in fresh:
                await answered(pair, wire, 4)
        assert "ended: SIGKILL; again in" in pair.said()


async def test_a_process_that_hangs_is_named_and_replaced(pair: Any) -> None:
    async with StubWorker() as worker, wire_to_each(pair) as (one, other):
        await serve(pair, worker)
        for wire in (one, other):
            assert (await chat(wire)).status == 200
        await answered(pair, one, 2)
        account = account_of(pair, other.pid)
        os.kill(other.pid, signal.SIGSTOP)
        assert await one.metric(PROCESSES, state="silent") == 1
        assert await one.metric(ARRIVALS) == 2
        assert "1 of this gateway" in (await one.ask("GET", "/status")).body.decode()
        os.utime(account, (0, 0))  # as if it hung for long

        async def replaced() -> bool:
            return len(children(pair) - {other.pid}) == 2

        await pair.until(replaced, 60)
        assert one.pid in children(pair)
        assert "hangs and is killed" in pair.said()


async def test_told_to_stop_all_processes_finish_their_streams(pair: Any) -> None:
    async with StubWorker("paused") as worker:
        await serve(pair, worker)
        async with wire_to_each(pair) as wires:
            for wire in wires:
                assert (await chat(wire, stream=True)).status == 200
            pair.terminate()
            worker.release.set()
            for wire in wires:
                assert EVENTS[-1] in await wire.rest()
            assert await asyncio.to_thread(pair.wait, 60) == 0


async def test_without_their_parent_the_processes_end(pair: Any) -> None:
    serving = children(pair)
    pair.kill()

    async def gone() -> bool:
        return not any(_lives(pid) for pid in serving)

    await pair.until(gone)


async def test_a_place_at_a_worker_is_one_place_for_all_processes(pair: Any) -> None:
    async with StubWorker("paused") as worker:
        await serve(pair, worker, queue=FleetQueue(per_worker=1, max_requests=8, timeout=120.0))
        async with wire_to_each(pair) as (one, other):
            assert (await chat(one, stream=True)).status == 200
            worker.script = "json"
            waits = asyncio.create_task(chat(other))

            async def queued() -> bool:
                nonlocal waits
                if waits.done():  # the other has not been told yet of who has the place
                    assert waits.result().status == 200
                    waits = asyncio.create_task(chat(other))
                return bool(await pair.metric("penstock_gateway_queued") == 1)

            await pair.until(queued)
            before = len(worker.seen)
            worker.release.set()
            assert (await asyncio.wait_for(waits, 60)).status == 200
            assert len(worker.seen) == before + 1


async def test_a_tenants_limits_are_those_of_the_whole_gateway(
    tmp_path: Path, gateway_type: Any
) -> None:
    file = tmp_path / "tenants.yaml"
    tries = {f"rare-{number}": {"requestsPerMinute": 4} for number in range(12)}
    limits = {"busy": {"concurrency": 1}, **tries}
    TenantsFile(file).write(**{name: {"limits": found} for name, found in limits.items()})
    folder = tmp_path / "limited"
    async with (
        running(folder, gateway_type, "--tenants", str(file)) as pair,
        StubWorker("paused") as worker,
    ):
        await serve(pair, worker)
        async with wire_to_each(pair) as (one, other):
            assert (await chat(one, key="sk-busy", stream=True)).status == 200

            async def refused() -> bool:
                return (await chat(other, key="sk-busy", model="none")).status == 429

            await pair.until(refused)
            worker.release.set()
            assert EVENTS[-1] in await one.rest()
            worker.script = "json"

            async def taken(wire: Any, name: str) -> int:
                """Return how many requests a tenant gets."""
                for count in range(9):
                    if (await chat(wire, key=f"sk-{name}")).status != 200:
                        return count
                return 9

            for number, name in enumerate(tries):
                at_one = await taken(one, name)
                assert at_one == 4
                await asyncio.sleep(0.01 * 2**number)  # until what one took has been told
                if await taken(other, name) == 0:
                    break
            else:
                pytest.fail("the processes have four requests each")


async def test_a_second_gateway_does_not_share_the_port(pair: Any, gateway_type: Any) -> None:
    second = gateway_type(pair.fleet_file.parent, "--processes", "2")
    second.port = pair.port
    second.spawn()
    try:
        assert await asyncio.to_thread(second.wait, 60) == 2
        assert "--port: cannot listen on" in second.said()
    finally:
        second.stop()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--processes", "0"), "--processes: must be between 1 and 32"),
        (("--processes", "33"), "--processes: must be between 1 and 32"),
        (
            ("--processes", "5", "--max-bodies", "128Mi"),
            "--max-bodies: each of --processes has an equal part",
        ),
    ],
)
async def test_what_does_not_go_together_is_refused(
    tmp_path: Path, gateway_type: Any, flags: tuple[str, ...], said: str
) -> None:
    found = gateway_type(tmp_path, *flags)
    found.spawn()
    try:
        assert await asyncio.to_thread(found.wait, 60) == 2
        assert said in found.said()
    finally:
        found.stop()


async def test_settings_that_no_process_can_begin_with_end_the_gateway(
    tmp_path: Path, gateway_type: Any
) -> None:
    folder = tmp_path / "refused"
    folder.mkdir()
    flags = "--processes", "2", "--tenant-namespace", "n"
    found = gateway_type(folder, *flags)
    found.spawn()
    try:
        assert await asyncio.to_thread(found.wait, 60) == 1
        assert "with --fleet, give --tenants FILE" in found.said()
    finally:
        found.stop()


async def serve(pair: Any, *workers: StubWorker, **more: Any) -> None:
    """Have both processes follow a fleet."""
    await pair.serve(*workers, **more)

    async def followed() -> bool:
        return len(re.findall(f"fleet {pair.generation}:", pair.said())) == 2

    await pair.until(followed)


async def answered(pair: Any, asked: Any, requests: int) -> None:
    """Have who is asked hear of so many requests from both processes, one of which may be late."""

    async def told() -> bool:
        states = [await asked.metric(PROCESSES, state=one) for one in ("answering", "silent")]
        return states == [2, 0] and bool(await asked.metric(ARRIVALS) == requests)

    await pair.until(told)


async def _in_flight(gateway: Any) -> int:
    return sum(load.in_flight for load in (await gateway.workers()).workers.values())


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
