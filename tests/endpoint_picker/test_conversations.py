"""What is said to a gateway message by message, and what is given back when it falls silent."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker_client import CHAT, body
from prometheus_client import CollectorRegistry

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetQueue, FleetWorker
from penstock_gateway.endpoint_picker import protocol
from penstock_gateway.endpoint_picker.messages import ProcessingRequest
from penstock_gateway.endpoint_picker.picker import Picker, PickerSettings
from penstock_gateway.endpoint_picker.processor import Conversation
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.bodies import Bodies
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.router import Router

pytestmark = pytest.mark.anyio
SENT = json.dumps(body(stream=True)).encode()
WORKER = FleetWorker(id="w", url="http://127.0.0.1:9", deployment="d", pool="p", role=Role.UNIFIED)
PATIENT = FleetQueue(per_worker=1, max_requests=5, timeout=0.01)


def new_picker(*workers: FleetWorker) -> Picker:
    model = FleetModel(name="m", deployment="d", queue=PATIENT)
    present = Directory(Fleet(generation=1, models=(model,), workers=workers))
    metrics = GatewayMetrics(CollectorRegistry())
    return Picker(
        PickerSettings(max_body=10_000), metrics, Router(PrefixIndex()), ConnectionPool(),
        lambda: present, Bodies(20_000, metrics.bodies),
    )  # fmt: skip


def head(part: str, found: dict[str, str], *, ends: bool = False, mode: int | None = None) -> Any:
    request = ProcessingRequest()
    told = getattr(request, part)
    for name, value in found.items():
        told.headers.headers.add(key=name, raw_value=value.encode())
    told.end_of_stream = ends
    if mode is not None:
        request.protocol_config.request_body_mode = mode
        request.protocol_config.response_body_mode = mode
    return request


def asks(*, ends: bool = False, mode: int | None = None) -> Any:
    found = {":path": CHAT, ":method": "POST", "content-type": "application/json"}
    return head("request_headers", found, ends=ends, mode=mode)


def answers(status: int, *, ends: bool = False, kind: str = "text/event-stream") -> Any:
    return head("response_headers", {":status": str(status), "content-type": kind}, ends=ends)


def piece(part: str, data: bytes, *, ends: bool = False) -> Any:
    request = ProcessingRequest()
    getattr(request, part).body = data
    getattr(request, part).end_of_stream = ends
    return request


def trailers(part: str) -> Any:
    request = ProcessingRequest()
    getattr(request, part).SetInParent()
    return request


async def said(conversation: Conversation, *requests: Any) -> list[Any]:
    return [one for request in requests async for one in conversation.answers(request)]


async def test_a_body_that_is_buffered_is_whole_though_trailers_come() -> None:
    conversation = Conversation(new_picker(WORKER))
    first, picked, last = await said(
        conversation,
        asks(mode=protocol.BUFFERED),
        piece("request_body", SENT),
        trailers("request_trailers"),
    )
    assert first.HasField("request_headers")
    assert picked.request_body.response.body_mutation.body == SENT
    assert last.HasField("request_trailers")
    conversation.close()


async def test_a_part_of_a_later_protocol_is_passed_over() -> None:
    picker = new_picker(WORKER)
    conversation = Conversation(picker)
    assert await said(conversation, ProcessingRequest()) == []
    destined, _ = await said(conversation, asks(), piece("request_body", SENT, ends=True))
    assert destined.HasField("request_headers")
    conversation.close()


_PARTS = st.sampled_from(
    [
        asks(), asks(ends=True), asks(mode=protocol.BUFFERED),
        piece("request_body", SENT[:20]), piece("request_body", SENT[20:]),
        piece("request_body", SENT, ends=True), piece("request_body", b"", ends=True),
        piece("request_body", b"x" * 10_001), trailers("request_trailers"),
        answers(200), answers(200, ends=True), answers(503, kind="text/plain"), answers(504),
        piece("response_body", b'data: {"choices":[]}\n\n'),
        piece("response_body", b"data: [DONE]\n\n", ends=True),
        piece("response_body", b"", ends=True), trailers("response_trailers"), ProcessingRequest(),
    ]
)  # fmt: skip


@given(st.lists(_PARTS, max_size=8), st.booleans())
def test_whatever_a_gateway_says_all_is_given_back_once(parts: list[Any], orderly: bool) -> None:
    async def talk() -> None:
        picker = new_picker(WORKER)
        conversation = Conversation(picker)
        for part in [asks(), piece("request_body", SENT, ends=True), *parts][not orderly :]:
            await said(conversation, part)
            if conversation.over:
                break
        conversation.ended()
        conversation.close()
        assert picker.gates.levels().get("d", (0, 0)) == (0, 0)
        assert picker.router.tally("w").in_flight == 0
        assert not picker.paces.under_way("w")
        assert picker.metrics.bodies.value == 0

    asyncio.run(talk())


async def test_who_leaves_while_it_waits_gives_back_its_place_and_its_body() -> None:
    picker = new_picker()  # nobody to take it
    conversation = Conversation(picker)
    asked = asyncio.create_task(said(conversation, asks(), piece("request_body", SENT, ends=True)))
    await asyncio.sleep(0)
    assert picker.gates.waiting("d") == 1
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    conversation.close()
    assert picker.gates.levels() == {"d": (0, 0)}
    assert picker.metrics.bodies.value == 0
