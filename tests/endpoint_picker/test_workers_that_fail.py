"""What the picker learns when a worker behind Envoy fails or is full, and whom it names then."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from envoy_process import EnvoyProcess
from picker_client import CHAT, body, post
from picker_process import PickerProcess
from stream_auditor import record
from stub_worker import OK, StubWorker

from penstock_contract.fleet import FleetQueue

pytestmark = pytest.mark.anyio

FAULTS = "penstock_gateway_worker_faults_total"
LONG = "x" * 5000


@pytest.fixture
async def pair() -> AsyncIterator[tuple[StubWorker, StubWorker]]:
    async with StubWorker() as one, StubWorker() as other:
        yield one, other


async def test_after_a_worker_that_is_gone_the_next_one_is_named(front: Any) -> None:
    async with StubWorker() as stays:
        async with StubWorker() as goes:
            await front.serve(goes)
            assert (await post(front.url, body(LONG))).status_code == 200
            await front.serve(goes, stays)
        before = await front.picker.metric(FAULTS, cause="unreachable")
        assert (
            await post(front.url, body(LONG))
        ).status_code == 503  # Envoy's: it goes nowhere else
        assert await front.picker.metric(FAULTS, cause="unreachable") == before + 1
        for _ in range(3):
            answer = await post(front.url, body(LONG))
            assert (answer.status_code, answer.content) == (200, OK)
        assert len(stays.seen) == 3


async def test_a_gateway_that_retries_goes_on_to_the_next_that_was_named(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[StubWorker, StubWorker]
) -> None:
    picker = PickerProcess(tmp_path_factory.mktemp("p"), "--endpoints", "2")
    among = [f"127.0.0.1:{worker.port}" for worker in pair]
    envoy = EnvoyProcess(tmp_path_factory.mktemp("e"), picker.grpc_port, retry_among=among)
    try:
        await picker.start()
        envoy.start()
        picker.write(*((f"w{worker.port}", worker.url) for worker in pair))
        await picker.followed()
        await post(envoy.url, body(LONG))
        first = next(worker for worker in pair if worker.seen)
        (second,) = [worker for worker in pair if worker is not first]
        first.stop()
        first.abandon()
        answer = await post(envoy.url, body(LONG))
        assert (answer.status_code, answer.content) == (200, OK)
        assert len(second.seen) == 1
        assert await picker.metric("penstock_gateway_retries_total") == 1
        loads = (await picker.workers()).workers
        assert (loads[f"w{first.port}"].failures, loads[f"w{second.port}"].failures) == (1, 0)
        assert all(load.in_flight == 0 for load in loads.values())
    finally:
        envoy.stop()
        picker.stop()


async def test_a_worker_that_is_lost_in_the_middle_is_asked_and_put_aside(front: Any) -> None:
    async with StubWorker() as stays, StubWorker("paused") as goes:
        await front.serve(goes)
        goes.healthy = False
        begun = asyncio.Event()
        streaming = asyncio.create_task(
            record(front.url, CHAT, body(LONG, stream=True), first_piece=begun)
        )
        await asyncio.wait_for(begun.wait(), 60)
        goes.abandon()
        assert not (await streaming).clean_end

        async def asked() -> bool:
            return goes.health_checks > 0 and "is not well" in front.picker.said()

        await front.picker.until(asked)
        await front.serve(goes, stays)
        assert (await post(front.url, body(LONG))).content == OK
        assert len(stays.seen) == 1


async def test_a_worker_that_is_well_is_not_blamed_for_an_answer_that_was_cut(front: Any) -> None:
    async with StubWorker("paused") as worker:
        await front.serve(worker)
        begun = asyncio.Event()
        streaming = asyncio.create_task(
            record(front.url, CHAT, body(stream=True), first_piece=begun)
        )
        await asyncio.wait_for(begun.wait(), 60)
        worker.abandon()
        await streaming

        async def asked() -> bool:
            return worker.health_checks > 0

        await front.picker.until(asked)
        load = (await front.picker.workers()).workers[f"w{worker.port}"]
        assert (load.in_flight, load.failures) == (0, 0)


@pytest.mark.parametrize(
    ("script", "status", "cause"),
    [("busy", 503, "refused"), ("drained", 503, "leaving"), ("failing", 500, "refused"),
     ("stranger", 401, "refused"), ("die", 503, "lost"), ("html", 200, "garbage")],
)  # fmt: skip
async def test_what_a_worker_did_not_do_is_counted_by_its_cause(
    front: Any, script: str, status: int, cause: str
) -> None:
    async with StubWorker(script) as worker:
        await front.serve(worker)
        before = await front.picker.metric(FAULTS, cause=cause)
        assert (await post(front.url)).status_code == status
        assert await front.picker.metric(FAULTS, cause=cause) == before + 1


async def test_a_worker_is_not_blamed_for_what_a_gateway_does_not_wait_for(
    picker: PickerProcess, front: Any, envoys: Any
) -> None:
    envoy = envoys(picker, patience=0.3)
    async with StubWorker("silent") as worker:
        await front.serve(worker)
        # A request of its own: the one that others send is suspected when its workers are lost.
        assert (await post(envoy.url, body("too long"))).status_code == 504
        await _asked_and_not_blamed(front, worker)


async def test_a_worker_is_not_blamed_for_what_a_gateway_does_not_send(
    picker: PickerProcess, front: Any, envoys: Any
) -> None:
    envoy = envoys(picker, most=1)
    async with StubWorker("silent") as worker:
        await front.serve(worker)
        first = asyncio.create_task(post(envoy.url, body("the only one")))
        await front.picker.until(partial(_has_seen, worker, 1))
        assert (await post(envoy.url)).status_code == 503
        await _asked_and_not_blamed(front, worker)
        worker.abandon()
        await first


async def _asked_and_not_blamed(front: Any, worker: StubWorker) -> None:
    async def asked() -> bool:
        return worker.health_checks > 0

    await front.picker.until(asked)
    load = (await front.picker.workers()).workers[f"w{worker.port}"]
    assert load.failures == 0


async def test_a_refusal_of_the_request_itself_is_not_held_against_the_worker(front: Any) -> None:
    async with StubWorker("refuse") as worker:
        await front.serve(worker)
        assert (await post(front.url)).json()["error"]["code"] == "context_length_exceeded"
        load = (await front.picker.workers()).workers[f"w{worker.port}"]
        assert (load.requests, load.failures) == (1, 0)


async def test_what_workers_have_no_room_for_waits_and_the_rest_is_shed(front: Any) -> None:
    queue = FleetQueue(per_worker=1, max_requests=1, timeout=60)
    async with StubWorker("paused") as worker:
        await front.serve(worker, queue=queue)
        first = asyncio.create_task(post(front.url, body(stream=True)))
        await _until_metric(front, "penstock_gateway_in_flight", 1)
        await front.picker.until(partial(_has_seen, worker, 1))
        second = asyncio.create_task(post(front.url, body(stream=True)))
        await _until_metric(front, "penstock_gateway_queued", 1)
        third = await post(front.url)
        assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(third.headers["retry-after"]) >= 1
        assert len(worker.seen) == 1
        worker.release.set()
        assert [(await one).status_code for one in (first, second)] == [200, 200]


async def test_who_waits_too_long_is_shed_and_who_leaves_gives_up_the_place(front: Any) -> None:
    queue = FleetQueue(per_worker=1, max_requests=5, timeout=0.3)
    async with StubWorker("paused") as worker:
        await front.serve(worker, queue=queue)
        first = asyncio.create_task(post(front.url, body(stream=True)))
        await front.picker.until(partial(_has_seen, worker, 1))
        assert (await post(front.url)).status_code == 429
        await front.serve(worker, queue=queue.model_copy(update={"timeout": 600}))
        leaves = asyncio.create_task(post(front.url))
        await _until_metric(front, "penstock_gateway_queued", 1)
        leaves.cancel()
        await _until_metric(front, "penstock_gateway_queued", 0)
        worker.release.set()
        assert (await first).status_code == 200
        await _until_metric(front, "penstock_gateway_in_flight", 0)


async def test_a_request_waits_for_the_first_worker_of_a_deployment_that_has_none(
    front: Any,
) -> None:
    queue = FleetQueue(max_requests=5, cold_start_timeout=60)
    async with StubWorker() as worker:
        await front.serve(queue=queue)
        waiting = asyncio.create_task(post(front.url))
        await _until_metric(front, "penstock_gateway_queued", 1)
        await front.serve(worker, queue=queue)
        assert (await waiting).content == OK


async def _until_metric(front: Any, name: str, value: float) -> None:
    async def is_so() -> bool:
        return bool(await front.picker.metric(name) == value)

    await front.picker.until(is_so)


async def _has_seen(worker: StubWorker, requests: int) -> bool:
    return len(worker.seen) == requests
