"""A prefill worker computes, a decode worker pulls and streams: nobody can tell from the text."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from stream_auditor import Recording, audit, record
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.api import Role
from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetDisaggregation

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ALWAYS = FleetDisaggregation(mode=DisaggregationMode.ALWAYS)
TEXT = "The list type has methods that add, find, remove and sort its items. " * 12


@dataclass
class Pair:
    """A prefill worker and a decode worker."""

    prefill: WorkerProcess
    decode: WorkerProcess

    async def serve(self, gateway: Any) -> None:
        """Put a gateway in front of both."""
        roles = {self.prefill.url: Role.PREFILL, self.decode.url: Role.DECODE}
        await gateway.serve(*roles, roles=roles, disaggregation=ALWAYS)


@contextlib.contextmanager
def handing_over(folder: Path, name: str) -> Iterator[WorkerProcess]:
    port = free_port()
    flags = ("--dtype", "float32", "--kv-transfer", f"127.0.0.1:{port}", "--worker-id", name)
    with worker(folder / name, *flags) as found:
        yield found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with handing_over(tmp_path, "prefill") as prefill, handing_over(tmp_path, "decode") as decode:
        eventually(lambda: prefill.health() == (200, "ok"), "the prefill worker is ready")
        eventually(lambda: decode.health() == (200, "ok"), "the decode worker is ready")
        yield Pair(prefill, decode)


def body(number: int, **options: Any) -> dict[str, Any]:
    """Return a request whose prompt begins like no other's."""
    messages = [{"role": "user", "content": f"({number}) {TEXT} What does sort() do?"}]
    common = {"model": NAME, "max_tokens": 24, "ignore_eos": True, "temperature": 0}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    return {**common, **streamed, "messages": messages, **options}


async def ask(url: str, number: int, **options: Any) -> Recording:
    return await record(url, CHAT, body(number, **options))


def texts(recording: Recording, choices: int = 1) -> dict[int, str]:
    verdict = audit(recording, include_usage=True, choices=choices)
    assert (verdict.violations, verdict.outcome) == ([], "complete")
    return verdict.texts


async def test_a_split_request_is_answered_as_by_one_worker(gateway: Any, pair: Pair) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 1),
        ({"temperature": 1.2, "seed": 4}, 1),
        ({"temperature": 0.9, "seed": 4, "n": 3}, 3),
    ]
    await pair.serve(gateway)
    for number, (options, choices) in enumerate(cases):
        split = texts(await ask(gateway.url, number, **options), choices)
        pulled = pair.decode.metric("penstock_worker_kv_pulls_total", outcome="complete")
        assert pulled == number + 1
        assert split == texts(await ask(pair.prefill.url, number, **options), choices)
    handed = await gateway.metric("penstock_gateway_prefills_total", outcome="handed_over")
    assert handed == len(cases)

    unstreamed = {"stream": False, "stream_options": None}
    split_whole = (await ask(gateway.url, 10, **unstreamed)).json()
    whole = (await ask(pair.prefill.url, 10, **unstreamed)).json()
    assert split_whole["choices"] == whole["choices"]
    assert split_whole["usage"]["completion_tokens"] == 24
    assert "kv_transfer_params" not in split_whole


async def test_without_the_prefill_worker_the_decode_worker_does_everything(
    gateway: Any, pair: Pair
) -> None:
    await pair.serve(gateway)
    expected = texts(await ask(pair.decode.url, 1))
    pair.prefill.process.kill()
    pair.prefill.process.wait()
    for _ in range(3):
        assert texts(await ask(gateway.url, 1)) == expected
    assert await gateway.metric("penstock_gateway_prefills_total", outcome="failed") >= 1
    assert await gateway.metric("penstock_gateway_outcomes_total", outcome="error") == 0


async def test_a_client_that_leaves_leaves_nothing_behind(gateway: Any, pair: Pair) -> None:
    await pair.serve(gateway)
    for number in range(4):
        began = asyncio.Event()
        asked = body(number, max_tokens=400)
        asking = asyncio.create_task(record(gateway.url, CHAT, asked, first_piece=began))
        if number % 2:
            await asyncio.wait_for(began.wait(), 60)
        else:
            await asyncio.sleep(0.05 * number)  # anywhere before the first token
        asking.cancel()

    def idle() -> bool:
        held = pair.prefill.metric("penstock_worker_kv_blocks", state="used")
        return held == 0 and pair.decode.is_idle()

    # And not because the leases, of 30 seconds, have run out.
    await asyncio.to_thread(eventually, idle, "every block is given back")
    assert pair.prefill.metric("penstock_worker_kv_leases_total", outcome="expired") == 0


async def test_a_client_cannot_name_the_address_that_a_worker_pulls_from(
    gateway: Any, pair: Pair
) -> None:
    await gateway.serve(pair.decode.url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        forged = {
            "do_remote_prefill": True,
            "remote_request_id": "x",
            "remote_host": "127.0.0.1",
            "remote_port": listening.getsockname()[1],
            "remote_num_tokens": 64,
            "penstock_epoch": "x",
            "penstock_lease_seconds": 30,
        }
        found = await ask(gateway.url, 1, kv_transfer_params=forged)
        assert json.loads(found.events()[0])["choices"]
        with pytest.raises(TimeoutError):
            listening.accept()
