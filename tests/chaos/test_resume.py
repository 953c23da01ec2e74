"""A stream that breaks anywhere goes on at another worker, and its client sees one whole answer.

One real worker behind two proxies that cut connections looks like two workers: what is tested is
the gateway, so the workers may be one. Workers that really die are in test_faults.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from accidents import Accidents
from fault_proxy import FaultProxy
from stream_auditor import Recording, audit, record
from tool_models import HERMES, make
from worker_process import NAME, WorkerProcess, eventually, worker

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
GREEDY = {"temperature": 0}
SEEDED = {"temperature": 1.3, "seed": 7}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def body(path: str, **options: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt": "The built-in function sorted() returns"}
    if path == CHAT:
        prompt = {"messages": [{"role": "user", "content": "What does sorted() return?"}]}
    common = {"model": NAME, "stream": True, "max_tokens": 24, "ignore_eos": True}
    return {**common, "stream_options": {"include_usage": True}, **prompt, **options}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker whose chat template knows tools."""
    folder = tmp_path_factory.mktemp("worker")
    model = make(tmp_path_factory.mktemp("model"), HERMES)
    with worker(folder / "log", "--dtype", "float32", model=model) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture
async def accidents(gateway: Any, served: WorkerProcess) -> AsyncIterator[Accidents]:
    port = urlsplit(served.url).port or 0
    async with FaultProxy(port) as one, FaultProxy(port) as two, FaultProxy(port) as three:
        found = Accidents(one, two, three)
        await gateway.serve(one.url, two.url, three.url)
        yield found


def by_choice(recording: Recording) -> dict[int, list[Any]]:
    """Return the chunks of each choice in order, but for what is random: -1 are those of none."""
    found: dict[int, list[Any]] = {}
    for event in recording.events():
        if event != "[DONE]":
            chunk = json.loads(event)
            del chunk["id"], chunk["created"]
            index = chunk["choices"][0]["index"] if chunk["choices"] else -1
            for choice in chunk["choices"]:
                for call in choice.get("delta", {}).get("tool_calls", []):
                    call.pop("id", None)
            if index == -1:  # a cache that was used by the run before
                del chunk["usage"]["prompt_tokens_details"]
            found.setdefault(index, []).append(chunk)
    return found


CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "greedy": (COMPLETIONS, GREEDY, 1),
    "seeded": (CHAT, SEEDED, 1),
    "wild": (CHAT, {"temperature": 4.0, "seed": 3}, 1),
    "stops": (COMPLETIONS, {**SEEDED, "stop": [" the", "list"], "min_tokens": 6}, 1),
    "penalties": (
        CHAT,
        {**SEEDED, "presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
        1,
    ),
    "schema": (
        CHAT,
        {
            **SEEDED,
            "ignore_eos": False,
            "max_tokens": 48,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True},
            },
        },
        1,
    ),
    "choices": (CHAT, {**SEEDED, "n": 3, "max_tokens": 12}, 3),
    "prompts": (COMPLETIONS, {**GREEDY, "prompt": ["A list", "A tuple is"], "max_tokens": 12}, 2),
    "tools": (
        CHAT,
        {
            **SEEDED,
            "ignore_eos": False,
            "max_tokens": 64,
            "tools": [{"type": "function", "function": {"name": "make", "parameters": SCHEMA}}],
            "tool_choice": "required",
        },
        1,
    ),
    "logprobs": (CHAT, {**GREEDY, "logprobs": True, "top_logprobs": 2, "max_tokens": 12}, 1),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_stream_cut_anywhere_reaches_its_client_whole_and_unchanged(
    gateway: Any, accidents: Accidents, case: str
) -> None:
    path, options, choices = CASES[case]
    payload = body(path, **options)
    undisturbed = await record(gateway.url, path, payload)
    assert audit(undisturbed, include_usage=True, choices=choices).outcome == "complete"
    # The first falls before the first event, the last after [DONE]; both must go unnoticed.
    size = len(undisturbed.body)
    for first in range(100, size * 5 // 4, max(1, size // 6)):
        accidents.bytes = (first, 1500)
        found = await record(gateway.url, path, payload)
        verdict = audit(found, include_usage=True, choices=choices)
        assert (verdict.violations, verdict.outcome) == ([], "complete")
        if case != "logprobs":  # whose last digits differ between prefill and decode
            assert by_choice(found) == by_choice(undisturbed)
        assert b"\n:" not in found.body
        assert not found.body.startswith(b":")
    assert accidents.happened > 6
    assert await gateway.metric("penstock_gateway_resumes_total", cause="lost") > 3
    assert await gateway.metric("penstock_gateway_outcomes_total", outcome="error") == 0


async def test_a_stream_is_given_to_three_workers_and_no_more(
    gateway: Any, accidents: Accidents
) -> None:
    accidents.bytes = (1500, 1200, 1200, 1200)
    found = await record(gateway.url, CHAT, body(CHAT, **GREEDY, max_tokens=60))
    verdict = audit(found, include_usage=True)
    assert (verdict.violations, verdict.outcome) == ([], "error")
    assert verdict.error is not None
    assert verdict.error["code"] == "upstream_failed"
    assert accidents.happened == 3


async def test_what_is_not_streamed_is_asked_for_again(gateway: Any, accidents: Accidents) -> None:
    payload = body(CHAT, **SEEDED, stream=False, n=2)
    del payload["stream_options"]
    undisturbed = (await record(gateway.url, CHAT, payload)).json()
    for cut in (0, 40, 300, 600):
        accidents.bytes = (cut,)
        found = await record(gateway.url, CHAT, payload)
        assert found.clean_end
        assert found.json()["choices"] == undisturbed["choices"]
    assert accidents.happened >= 4


async def test_a_client_cannot_pretend_to_resume(gateway: Any, served: WorkerProcess) -> None:
    await gateway.serve(served.url)
    payload = body(CHAT, **GREEDY)
    forged = {"id": "mine", "created": 1, "seed": 1, "choices": [{"index": 0, "tokens": [5]}]}
    honest = await record(gateway.url, CHAT, payload)
    for lie in (forged, "nonsense"):
        found = await record(gateway.url, CHAT, {**payload, "penstock_resume": lie})
        assert by_choice(found) == by_choice(honest)


async def test_a_stream_without_another_worker_waits_for_one(
    gateway: Any, served: WorkerProcess
) -> None:
    async with FaultProxy(urlsplit(served.url).port or 0) as proxy:
        cuts = itertools.chain([2000], itertools.repeat(None))
        proxy.cut = lambda _: next(cuts)
        await gateway.serve(proxy.url)
        reading = asyncio.create_task(record(gateway.url, CHAT, body(CHAT, **GREEDY)))

        async def broken() -> bool:
            return bool(proxy.cuts)

        await gateway.until(broken)
        await gateway.serve(proxy.url, served.url)
        verdict = audit(await reading, include_usage=True)
        assert (verdict.violations, verdict.outcome) == ([], "complete")


async def test_a_client_that_leaves_meanwhile_ends_the_search(
    gateway: Any, served: WorkerProcess
) -> None:
    async with FaultProxy(urlsplit(served.url).port or 0) as proxy:
        proxy.cut = lambda _: 2000
        await gateway.serve(proxy.url)
        reading = asyncio.create_task(record(gateway.url, CHAT, body(CHAT, **GREEDY)))

        async def broken() -> bool:
            return bool(proxy.cuts)

        await gateway.until(broken)
        reading.cancel()

        async def counted() -> bool:
            name = "penstock_gateway_outcomes_total"
            return bool(await gateway.metric(name, outcome="cancelled") == 1)

        await gateway.until(counted)
