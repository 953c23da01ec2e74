"""Clients, a real Envoy, the picker, and workers that misbehave on cue."""

import asyncio
import json
from typing import Any

import plain_http
import pytest
import recordings
import vllm_answers
from picker_client import CHAT, body, post
from stream_auditor import record
from stub_worker import EVENTS, OK, StubWorker

from penstock_contract.tasks import SPEECH_PATHS

pytestmark = pytest.mark.anyio


async def test_an_answer_comes_from_the_worker_that_was_picked(front: Any) -> None:
    async with StubWorker() as worker:
        await front.serve(worker, tpot=0.05)
        sent = {"authorization": "Bearer secret", "cookie": "a=b", "x-penstock-priority": "99"}
        answer = await post(front.url, headers={**sent, "x-request-id": "mine-1"})
        assert (answer.status_code, answer.content) == (200, OK)
        assert "x-penstock-epoch" not in answer.headers
        (seen,) = worker.seen
        assert json.loads(seen.body) == body()
        head = seen.head.lower()
        assert f"x-gateway-destination-endpoint: 127.0.0.1:{worker.port}".encode() in head
        assert b"x-penstock-tpot-objective: 0.05" in head
        for forbidden in (b"authorization", b"cookie", b"x-penstock-priority"):
            assert forbidden not in head


async def test_a_stream_passes_event_by_event_and_is_counted(front: Any) -> None:
    async with StubWorker("stream") as worker:
        await front.serve(worker)
        names = ("outcomes_total", "time_to_first_byte_seconds_count")
        before = [await front.picker.metric(f"penstock_gateway_{name}") for name in names]
        found = await record(front.url, CHAT, body(stream=True))
        assert found.body == b"".join(EVENTS)
        after = [await front.picker.metric(f"penstock_gateway_{name}") for name in names]
        assert after == [count + 1 for count in before]


async def test_the_first_event_is_not_held_back(front: Any) -> None:
    async with StubWorker("paused") as worker, plain_http.client(front.url) as client:
        await front.serve(worker)
        async with client.stream("POST", CHAT, json=body(stream=True)) as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == EVENTS[0]
            worker.release.set()
            assert b"".join([piece async for piece in pieces]) == EVENTS[-1]


async def test_a_recording_goes_to_the_worker_as_it_came(front: Any) -> None:
    async with StubWorker("heard") as worker, plain_http.client(front.url) as client:
        await front.serve(worker)
        form, kind = recordings.form({"model": "m"})
        answer = await client.post(SPEECH_PATHS[0], content=form, headers=kind)
        assert (answer.status_code, answer.content) == (200, vllm_answers.TRANSCRIPTION)
        (seen,) = worker.seen
        assert seen.body == form
        assert f"content-type: {kind['content-type']}".encode() in seen.head
        refused = await post(front.url, path=SPEECH_PATHS[0])
        assert refused.status_code == 415


async def test_equal_beginnings_go_to_one_worker_and_others_elsewhere(front: Any) -> None:
    async with StubWorker() as one, StubWorker() as other:
        await front.serve(one, other)
        for system in ("a", "b"):
            for turn in range(4):
                text = system * 4000 + str(turn)
                await post(front.url, body(text))
        assert {len(one.seen), len(other.seen)} == {4}
        for worker in (one, other):
            texts = [json.loads(seen.body)["messages"][0]["content"] for seen in worker.seen]
            assert len({text[0] for text in texts}) == 1


async def test_a_session_stays_where_it_is(front: Any) -> None:
    async with StubWorker() as one, StubWorker() as other:
        await front.serve(one, other)
        for number in range(6):
            sent = body(str(number))
            await post(front.url, sent, headers={"x-session-affinity": "s"})
        assert sorted((len(one.seen), len(other.seen))) == [0, 6]


async def test_prompts_with_pieces_of_every_size_arrive_unchanged(front: Any) -> None:
    async with StubWorker() as worker:
        await front.serve(worker)
        text = "".join(chr(0x20 + number % 90) for number in range(1_500_000))
        sent = json.dumps(body(text)).encode()

        async def slowly() -> Any:
            for start in range(0, len(sent), 70_001):
                yield sent[start : start + 70_001]

        async with plain_http.client(front.url) as client:
            told = {"content-type": "application/json"}
            answer = await client.post(CHAT, content=slowly(), headers=told)
        assert answer.status_code == 200
        assert worker.seen[0].body == sent


async def test_a_body_beyond_the_limit_is_refused_whether_it_says_so_or_not(
    picker: Any, front: Any, envoys: Any
) -> None:
    # A client may take long to send what is not read any more.
    url = envoys(picker, linger=60).url
    async with StubWorker() as worker:
        await front.serve(worker)
        sent = json.dumps(body(x="x" * (5 << 20))).encode()
        told = {"content-type": "application/json"}

        async def unannounced() -> Any:
            for start in range(0, len(sent), 1 << 16):
                yield sent[start : start + (1 << 16)]

        async with plain_http.client(url) as client:
            announced = await client.post(CHAT, content=sent, headers=told)
            assert announced.status_code == 413
            assert announced.json()["error"]["code"] == "request_too_large"
            assert (await client.post(CHAT, content=unannounced(), headers=told)).status_code == 413
        assert not worker.seen

        async def held_nothing() -> bool:
            return bool(await front.picker.metric("penstock_gateway_request_body_bytes") == 0)

        await front.picker.until(held_nothing)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"model": ""}', 400, "invalid_request"),
        (b'{"model": "nobody"}', 404, "model_not_found"),
    ],
)
async def test_what_is_no_request_is_refused_in_openais_shape(
    front: Any, sent: bytes, status: int, code: str
) -> None:
    async with StubWorker() as worker, plain_http.client(front.url) as client:
        await front.serve(worker)
        told = {"content-type": "application/json", "x-request-id": "mine"}
        answer = await client.post(CHAT, content=sent, headers=told)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"] == "mine"
        assert await front.picker.metric("penstock_gateway_refusals_total", code=code) >= 1
        assert not worker.seen


async def test_only_what_a_worker_may_be_asked_is_passed_on(front: Any) -> None:
    async with StubWorker() as worker, plain_http.client(front.url) as client:
        await front.serve(worker)
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get(CHAT)).status_code == 405
        assert (await client.post("/v1/messages", json=body())).status_code == 404
        text = await client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
        assert text.status_code == 415
        assert not worker.seen


async def test_the_models_are_told_without_asking_a_worker(front: Any) -> None:
    async with StubWorker() as worker, plain_http.client(front.url) as client:
        await front.serve(worker)
        listed = (await client.get("/v1/models")).json()["data"]
        assert [found["id"] for found in listed] == ["m", "org/alias", "sql"]
        assert (await client.get("/v1/models/org%2Falias")).json()["id"] == "org/alias"
        assert (await client.get("/v1/models/nobody")).status_code == 404


async def test_what_only_a_gateway_may_say_is_taken_out_of_the_body(front: Any) -> None:
    async with StubWorker() as worker:
        await front.serve(worker)
        await post(front.url, body(kv_transfer_params={"remote_host": "evil"}))
        assert json.loads(worker.seen[0].body)["kv_transfer_params"] is None


async def test_a_client_cannot_say_where_its_request_goes(front: Any) -> None:
    async with (
        StubWorker() as worker,
        StubWorker() as inside,
        plain_http.client(front.url) as client,
    ):
        await front.serve(worker)
        told = [("x-gateway-destination-endpoint", f"127.0.0.1:{inside.port}")] * 2
        for path in (CHAT, "/metrics"):
            await client.post(path, json=body(), headers=told)
        assert not inside.seen
        (seen,) = worker.seen
        assert seen.head.lower().count(b"x-gateway-destination-endpoint") == 1


async def test_a_routes_prefix_is_not_the_workers(picker: Any, front: Any, envoys: Any) -> None:
    url = envoys(picker, prefix="/models").url
    async with StubWorker() as worker, plain_http.client(url) as client:
        await front.serve(worker)
        assert (await post(url, path=f"/models{CHAT}")).content == OK
        assert worker.seen[0].head.startswith(f"POST {CHAT} ".encode())
        assert (await client.get("/models/v1/models/org%2Falias")).json()["id"] == "org/alias"
        assert (await client.get("/models/metrics")).status_code == 404


async def test_without_a_worker_it_is_503_at_once(front: Any) -> None:
    await front.serve()
    answer = await post(front.url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_client_that_leaves_ends_what_was_begun_for_it(front: Any) -> None:
    async with StubWorker("paused") as worker:
        await front.serve(worker)

        async def leave() -> None:
            async with (
                plain_http.client(front.url) as client,
                client.stream("POST", CHAT, json=body(stream=True)) as answer,
            ):
                await anext(answer.aiter_raw())

        await leave()
        await asyncio.wait_for(worker.closed.wait(), 60)

        async def over() -> bool:
            loads = (await front.picker.workers()).workers
            return bool(loads[f"w{worker.port}"].in_flight == 0)

        await front.picker.until(over)
        cancelled = "penstock_gateway_outcomes_total"
        assert await front.picker.metric(cancelled, outcome="cancelled") == 1
        assert (await front.picker.workers()).workers[f"w{worker.port}"].failures == 0
