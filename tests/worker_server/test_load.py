"""Many clients at once, and clients that leave: nothing is left behind, and metrics say so."""

import asyncio
from typing import Any

import plain_http
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stream_auditor import audit, record
from worker_process import NAME, WorkerProcess, eventually

from penstock_contract import metrics

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def chat(question: str, **options: Any) -> dict[str, Any]:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        **options,
    }


async def test_64_requests_with_shared_prefixes_hit_the_cache_and_leave_nothing_behind(
    served: WorkerProcess,
) -> None:
    before = served.metric("vllm:prefix_cache_hits_total")
    system = "You know the documentation of Python and answer in one sentence. " * 6
    payloads = [
        chat("", max_tokens=12)
        | {
            "messages": [
                {"role": "system", "content": f"{system}{number % 4}"},
                {"role": "user", "content": f"What is number {number}?"},
            ]
        }
        for number in range(64)
    ]
    recordings = await asyncio.gather(*(record(served.url, CHAT, p) for p in payloads))
    verdicts = [audit(recording, include_usage=True) for recording in recordings]
    assert [verdict.violations for verdict in verdicts] == [[]] * 64
    assert {verdict.outcome for verdict in verdicts} == {"complete"}
    assert {v.usage["completion_tokens"] for v in verdicts if v.usage} == {12}
    assert served.metric("vllm:prefix_cache_hits_total") > before
    await asyncio.to_thread(eventually, served.is_idle, "every block is given back")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_client_that_leaves_frees_its_blocks(served: WorkerProcess, stream: bool) -> None:
    await asyncio.to_thread(eventually, served.is_idle, "the worker is idle")
    aborted = served.metric("vllm:request_success_total", finished_reason="abort")
    payload = chat("Tell me everything.", max_tokens=900, n=16)
    if not stream:
        payload |= {"stream": False, "stream_options": None}
    reading = asyncio.create_task(record(served.url, CHAT, payload))
    running = lambda: served.metric("vllm:num_requests_running") == 16  # noqa: E731
    await asyncio.to_thread(eventually, running, "all its choices run")
    reading.cancel()
    await asyncio.to_thread(eventually, served.is_idle, "its blocks are free")
    name, left = "vllm:request_success_total", aborted + 16
    counted = lambda: served.metric(name, finished_reason="abort") == left  # noqa: E731
    await asyncio.to_thread(eventually, counted, "they count as aborted")


async def test_every_declared_metric_is_exported_and_moves(served: WorkerProcess) -> None:
    await record(served.url, CHAT, chat("What is a list?", max_tokens=4))
    async with plain_http.client() as client:
        text = (await client.get(f"{served.url}/metrics")).text
    samples = {family.name: family.samples for family in text_string_to_metric_families(text)}
    assert set(samples) >= {metric.name for metric in metrics.WORKER}
    for metric in metrics.WORKER:
        assert samples[metric.name], f"{metric.name} has no series"
        for sample in samples[metric.name]:
            assert sample.labels.get("model_name", NAME) == NAME
    assert served.metric("vllm:time_to_first_token_seconds_count") > 0
    assert served.metric("vllm:inter_token_latency_seconds_count") > 0
    assert served.metric("vllm:request_queue_time_seconds_count") > 0
    assert served.metric("penstock_worker_step_seconds_count") > 0
    assert served.metric("penstock_worker_load_seconds") > 0
    assert served.metric("penstock_worker_draining") == 0


async def test_token_counters_follow_what_clients_were_billed(served: WorkerProcess) -> None:
    await asyncio.to_thread(eventually, served.is_idle, "the worker is idle")
    before = served.metric("vllm:generation_tokens_total")
    verdict = audit(
        await record(served.url, CHAT, chat("What is a set?", max_tokens=9)), include_usage=True
    )
    assert verdict.usage is not None
    after = served.metric("vllm:generation_tokens_total")
    assert after - before == verdict.usage["completion_tokens"] == 9
