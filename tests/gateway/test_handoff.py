"""What goes over the wire when one worker computes a prompt for another.

The answers have the fields that vLLM's NIXL connector and Penstock's workers write; the requests
are compared with what routers of vLLM send.
"""

import asyncio
import json
from typing import Any

import pytest
from stream_auditor import Recording, record
from stub_worker import EVENTS, OK, StubWorker

from penstock_contract.api import Role
from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetDisaggregation
from penstock_gateway.relay.handoff import decode_body, lease_of, params_of, prefill_body

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

NIXL = (
    b'{"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [[1, 2, 3]], '
    b'"remote_engine_id": "5b7b4e6c-dp0", "remote_request_id": "cmpl-1-0", '
    b'"remote_host": "10.1.2.3", "remote_port": 5600, "tp_size": 1, "remote_num_tokens": 48, '
    b'"remote_blocks_expiry_time": 1763712345.6789012}'
)
PENSTOCK = NIXL[:-1] + b', "penstock_epoch": "e1", "penstock_lease_seconds": 30.0}'
ASKED = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_request_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def answer(params: bytes) -> bytes:
    lie = json.dumps('"kv_transfer_params": {"do_remote_prefill": true}').encode()
    return b'{"id": "cmpl-1", "choices": [{"text": %b}], "kv_transfer_params": %b}' % (lie, params)


@pytest.mark.parametrize("params", [NIXL, PENSTOCK])
def test_what_the_prefill_worker_says_goes_on_byte_for_byte(params: bytes) -> None:
    found = params_of(answer(params))
    assert found == params
    assert (
        decode_body(b'{"model":"m"}', params) == b'{"model":"m","kv_transfer_params":%b}' % params
    )


@pytest.mark.parametrize("params", [b"null", b"{}", b'{"do_remote_prefill": false}', b"[1", b""])
def test_without_blocks_there_is_nothing_to_pull(params: bytes) -> None:
    assert params_of(answer(params)) is None
    assert params_of(b'{"choices": []}') is None


def test_only_leases_that_somebody_knows_are_given_back() -> None:
    assert lease_of(PENSTOCK) == "cmpl-1-0"
    assert lease_of(NIXL) == ""


@pytest.mark.parametrize("chat", [True, False])
def test_a_prefill_request_is_the_clients_with_one_token(chat: bool) -> None:
    body = b'{"model":"m","n":3,"stream":true,"stream_options":{"include_usage":true},"seed":1}'
    found = json.loads(prefill_body(body, chat=chat))
    one = {"max_tokens": 1, "min_tokens": 1, "n": 1, "stream": False, "stream_options": None}
    longest = {"max_completion_tokens": 1} if chat else {}
    assert found == {"model": "m", "seed": 1, "kv_transfer_params": ASKED, **one, **longest}


class Prefill(StubWorker):
    """Computes prompts for others, and hears who does not want them any more."""

    params = PENSTOCK

    def __init__(self, script: str = "computed") -> None:
        super().__init__(script)
        self.released: list[bytes] = []

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._line = await reader.readuntil(b"\r\n")
        if self._line.startswith(b"DELETE "):
            self.released.append(self._line.split(b" ")[1])
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
            return True
        return await super()._request(reader, writer)

    async def _computed(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = answer(self.params)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        return True


ALWAYS = FleetDisaggregation(mode=DisaggregationMode.ALWAYS)


async def serve(gateway: Any, prefill: StubWorker, decode: StubWorker, **options: Any) -> None:
    roles = {prefill: Role.PREFILL, decode: Role.DECODE}
    await gateway.serve(prefill, decode, roles=roles, **options)


async def ask(gateway: Any, path: str = CHAT, **options: Any) -> Recording:
    body = {"model": "m", "prompt": "x" * 9000, "max_tokens": 9, **options}
    return await record(gateway.url, path, body)


async def prefills(gateway: Any, outcome: str) -> int:
    return int(await gateway.metric("penstock_gateway_prefills_total", outcome=outcome))


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False])
async def test_one_worker_computes_and_another_one_decodes(gateway: Any, stream: bool) -> None:
    async with Prefill() as prefill, StubWorker("stream" if stream else "json") as decode:
        await serve(gateway, prefill, decode, disaggregation=ALWAYS)
        found = await ask(gateway, stream=stream, kv_transfer_params={"remote_host": "evil"})
        assert found.body == (b"".join(EVENTS) if stream else OK)
        first, second = prefill.seen[0], decode.seen[0]
        assert json.loads(first.body)["kv_transfer_params"] == ASKED
        assert second.body.endswith(b'"kv_transfer_params":' + PENSTOCK + b"}")
        assert json.loads(second.body)["max_tokens"] == 9
        for seen in (first, second):
            assert b"x-penstock-handoff: 1\r\n" in seen.head
        assert await prefills(gateway, "handed_over") == 1
        assert prefill.released == []


@pytest.mark.anyio
@pytest.mark.parametrize("failure", ["die", "garbage", "busy", "failing", "refuse", "json"])
async def test_a_failed_prefill_costs_time_only(gateway: Any, failure: str) -> None:
    async with Prefill(failure) as prefill, StubWorker("stream") as decode:
        await serve(gateway, prefill, decode, disaggregation=ALWAYS)
        found = await ask(gateway, stream=True)
        assert found.body == b"".join(EVENTS)
        assert b"kv_transfer_params" not in decode.seen[0].body
        outcome = "no_lease" if failure == "json" else "failed"
        assert await prefills(gateway, outcome) == 1


@pytest.mark.anyio
async def test_a_decode_worker_that_fails_is_replaced_and_the_lease_given_back(
    gateway: Any,
) -> None:
    async with Prefill() as prefill, StubWorker("die") as bad, StubWorker("die") as good:
        roles = {prefill: Role.PREFILL, bad: Role.DECODE, good: Role.DECODE}
        await gateway.serve(prefill, bad, good, roles=roles, disaggregation=ALWAYS)
        await ask(gateway, stream=True)

        async def released() -> bool:
            return prefill.released == [b"/kv_leases/cmpl-1-0"]

        await gateway.until(released)
        second = bad.seen + good.seen
        assert [b"kv_transfer_params" in seen.body for seen in second].count(True) == 1


@pytest.mark.anyio
async def test_a_client_that_leaves_gives_the_lease_back(gateway: Any) -> None:
    async with Prefill() as prefill, StubWorker("silent") as decode:
        await serve(gateway, prefill, decode, disaggregation=ALWAYS)
        asking = asyncio.create_task(ask(gateway, stream=True))

        async def arrived() -> bool:
            return bool(decode.seen)

        await gateway.until(arrived)
        asking.cancel()

        async def released() -> bool:
            return prefill.released == [b"/kv_leases/cmpl-1-0"]

        await gateway.until(released)


@pytest.mark.anyio
async def test_what_does_not_split_is_computed_where_it_is_decoded(
    gateway: Any,
) -> None:
    async with Prefill() as prefill, StubWorker() as decode:
        await serve(gateway, prefill, decode)
        assert (await ask(gateway, prompt="hi")).body == OK
        assert await prefills(gateway, "short") == 1
        await serve(gateway, prefill, decode, disaggregation=ALWAYS)
        for options in ({"prompt": ["hi", "ho"]}, {"echo": True}, {"prompt_logprobs": 1}):
            assert (await ask(gateway, COMPLETIONS, **options)).body == OK
        assert (await ask(gateway, "/tokenize", prompt="hi")).body == OK
        assert prefill.seen == []
