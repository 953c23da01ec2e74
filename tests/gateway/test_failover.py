"""Workers that fail, leave or try something new, and what the gateway makes of it."""

import asyncio
from typing import Any

import httpx
import pytest
from stream_auditor import Recording, record
from stub_worker import EVENTS, OK, StubWorker

from penstock_contract.api import Role
from penstock_contract.fleet import FleetCanary, WorkerLoad, WorkerState

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
RETRIES = "penstock_gateway_retries_total"


async def ask(gateway: Any, session: str = "", **options: Any) -> Recording:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **options}
    headers = {"x-session-affinity": session} if session else {}
    return await record(gateway.url, CHAT, body, headers=headers)


async def load(gateway: Any, worker: StubWorker) -> WorkerLoad:
    found: WorkerLoad = (await gateway.workers()).workers[f"w{worker.port}"]
    return found


async def test_a_worker_that_dies_before_its_first_event_is_retried_elsewhere(
    gateway: Any,
) -> None:
    async with StubWorker("head_only") as bad, StubWorker("stream") as good:
        await gateway.serve(bad, good)
        while not bad.seen:  # equal workers are chosen among at random
            for recording in await asyncio.gather(*(ask(gateway, stream=True) for _ in range(6))):
                assert recording.body == b"".join(EVENTS)
                assert recording.clean_end
        assert await gateway.metric(RETRIES) == len(bad.seen)


@pytest.mark.parametrize("script", ["drained", "handing_back", "busy"])
async def test_a_worker_that_takes_nothing_now_is_passed_over(gateway: Any, script: str) -> None:
    async with StubWorker(script) as refusing, StubWorker() as other:
        await gateway.serve(refusing, other)
        while not refusing.seen:  # equal workers are chosen among at random
            for _ in range(8):
                assert (await ask(gateway)).body == OK
        found = await load(gateway, refusing)
        # One that leaves in good order is not to blame; one that is overrun is.
        failures = len(refusing.seen) if script == "busy" else 0
        assert (found.requests, found.failures) == (failures, failures)


async def test_the_last_worker_s_refusal_is_the_clients(gateway: Any) -> None:
    async with StubWorker("busy") as only:
        await gateway.serve(only)
        recording = await ask(gateway)
        assert recording.status == 503
        assert recording.json()["error"]["code"] == "no_capacity"


async def test_a_resend_on_a_kept_connection_that_was_dead_is_a_retry(gateway: Any) -> None:
    async with StubWorker("tired") as worker:
        await gateway.serve(worker)
        for _ in range(3):
            assert (await ask(gateway)).body == OK
        assert await gateway.metric(RETRIES) == 2
        found = await load(gateway, worker)
        assert (found.requests, found.failures) == (3, 0)


async def test_a_broken_worker_is_probed_and_clients_are_kept_away_until_it_is_well(
    gateway: Any,
) -> None:
    async with StubWorker("die") as bad, StubWorker() as good:
        bad.healthy = False
        await gateway.serve(bad, good)
        while not bad.seen:
            assert (await ask(gateway)).body == OK
        failed = len(bad.seen)

        async def probed_twice() -> bool:
            return bad.health_checks >= 2

        await gateway.until(probed_twice)
        for _ in range(8):
            await ask(gateway)
        assert len(bad.seen) == failed

        bad.script, bad.healthy = "json", True

        async def back() -> bool:
            await ask(gateway)
            return len(bad.seen) > failed

        await gateway.until(back)


async def test_a_gateway_tells_what_it_has_on_its_workers(gateway: Any) -> None:
    async with StubWorker("paused") as worker, StubWorker() as leaving:
        await gateway.serve(worker, leaving, draining=(leaving,))
        first = asyncio.Event()
        body = {"model": "m", "stream": True, "prompt": "x" * 4000}
        running = asyncio.create_task(record(gateway.url, CHAT, body, first_piece=first))
        silent = asyncio.create_task(ask_silent(gateway, worker))
        await asyncio.wait_for(first.wait(), 60)

        async def both_arrived() -> bool:
            return (await load(gateway, worker)).in_flight == 2

        await gateway.until(both_arrived)
        found = await load(gateway, worker)
        assert found.state is WorkerState.READY
        # The stream has its first token; the other prompt of 8,000 bytes is outstanding.
        assert found.outstanding_tokens == pytest.approx(2000, rel=0.01)
        assert await load(gateway, leaving) == WorkerLoad(state=WorkerState.DRAINING)
        worker.release.set()
        await running
        silent.cancel()

        async def counted() -> bool:
            return (await load(gateway, worker)).requests == 1

        await gateway.until(counted)
        assert (await load(gateway, worker)).failures == 0


async def ask_silent(gateway: Any, worker: StubWorker) -> None:
    """Ask the same worker for something that it never answers."""

    async def seen() -> bool:
        return len(worker.seen) == 1

    await gateway.until(seen)
    worker.script = "silent"
    await record(gateway.url, CHAT, {"model": "m", "prompt": "y" * 8000})


async def test_failures_are_counted_per_worker(gateway: Any) -> None:
    async with StubWorker("cut") as worker:
        await gateway.serve(worker)
        await ask(gateway, stream=True)
        found = await load(gateway, worker)
        assert (found.requests, found.failures, found.in_flight) == (1, 1, 0)


async def test_running_streams_outlive_the_drain_of_their_worker(gateway: Any) -> None:
    async with StubWorker("paused") as worker, StubWorker() as other:
        await gateway.serve(worker)
        first = asyncio.Event()
        body = {"model": "m", "stream": True, "prompt": "hi"}
        running = asyncio.create_task(record(gateway.url, CHAT, body, first_piece=first))
        await asyncio.wait_for(first.wait(), 60)
        await gateway.serve(worker, other, draining=(worker,))
        assert (await load(gateway, worker)).in_flight == 1
        assert (await ask(gateway)).body == OK
        assert len(other.seen) == 1
        worker.release.set()
        assert (await running).clean_end


async def test_a_canary_gets_its_share_and_each_session_stays_where_it_is(gateway: Any) -> None:
    async with StubWorker() as new, StubWorker() as old:
        canary = FleetCanary(revision="new", weight=30)
        await gateway.serve(new, old, revisions={new: "new", old: "old"}, canary=canary)
        sessions = [f"s{n}" for n in range(60)]
        for session in sessions:
            await ask(gateway, session)
        share = len(new.seen)
        assert 8 <= share <= 30
        for session in sessions:
            await ask(gateway, session)
        assert (len(new.seen), len(old.seen)) == (2 * share, 2 * (60 - share))


async def test_a_canary_that_fails_costs_its_sessions_nothing(gateway: Any) -> None:
    async with StubWorker("die") as new, StubWorker("die") as second, StubWorker() as old:
        canary = FleetCanary(revision="new", weight=50)
        revisions = {new: "new", second: "new", old: "old"}
        await gateway.serve(new, second, old, revisions=revisions, canary=canary)
        for session in range(30):
            assert (await ask(gateway, f"s{session}")).body == OK
        assert new.seen or second.seen


async def test_without_a_ready_worker_a_canarys_sessions_go_to_the_old_revision(
    gateway: Any,
) -> None:
    async with StubWorker() as old:
        canary = FleetCanary(revision="new", weight=99)
        await gateway.serve(old, revisions={old: "old"}, canary=canary)
        for session in range(5):
            assert (await ask(gateway, f"s{session}")).body == OK


async def test_prefill_workers_serve_no_whole_requests(gateway: Any) -> None:
    async with StubWorker() as prefill, StubWorker() as decode:
        await gateway.serve(prefill, decode, roles={prefill: Role.PREFILL, decode: Role.DECODE})
        for _ in range(4):
            await ask(gateway)
        assert (len(prefill.seen), len(decode.seen)) == (0, 4)


async def test_before_the_fleet_is_known_a_gateway_is_not_well(tmp_path: Any, gateway: Any) -> None:
    folder = tmp_path / "blind"
    folder.mkdir()
    blind = type(gateway)(folder)
    blind.spawn()
    try:

        async def alive() -> bool:
            try:
                return bool((await blind.get("/livez")).status_code == 200)
            except httpx.TransportError:
                return False

        await gateway.until(alive)
        assert (await blind.get("/health")).status_code == 503
        refused = await ask(blind)
        assert (refused.status, refused.json()["error"]["code"]) == (503, "no_capacity")
    finally:
        blind.stop()
