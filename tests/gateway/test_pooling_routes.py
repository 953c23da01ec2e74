"""Requests for vectors, scores and rankings: routed, limited and retried like all others."""

import asyncio
import json
from typing import Any

import httpx
import plain_http
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_worker import OK, StubWorker

from penstock_contract.api.engine import Task
from penstock_contract.tasks import POOLING_PATHS
from penstock_gateway.relay.inputs import ID_SIZE, inputs_size

EMBEDDINGS = "/v1/embeddings"


async def ask(gateway: Any, path: str = EMBEDDINGS, **body: Any) -> httpx.Response:
    async with plain_http.client() as client:
        return await client.post(gateway.url + path, json={"model": "m", **body})


@pytest.mark.anyio
@pytest.mark.parametrize("path", POOLING_PATHS)
async def test_bytes_pass_through_untouched(gateway: Any, path: str) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await ask(gateway, path, input=["a", "b"])
        assert (answer.status_code, answer.content) == (200, OK)
        assert worker.seen[0].head.startswith(f"POST {path} ".encode())
        assert json.loads(worker.seen[0].body) == {"model": "m", "input": ["a", "b"]}


@pytest.mark.anyio
async def test_a_worker_that_fails_costs_a_retry(gateway: Any) -> None:
    async with StubWorker("die") as broken, StubWorker() as well:
        await gateway.serve(broken, well)
        while not broken.seen:  # equal workers are chosen among at random
            assert (await ask(gateway, input="a")).status_code == 200
        assert well.seen


@pytest.mark.anyio
async def test_a_stream_that_nobody_can_give_is_no_fault_of_the_worker(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        answer = await ask(gateway, input="a", stream=True)
        assert (answer.status_code, answer.content) == (200, OK)
        assert await gateway.metric("penstock_gateway_worker_faults_total") == 0


@pytest.mark.anyio
async def test_equal_inputs_are_spread_by_load_and_not_by_prefix(gateway: Any) -> None:
    text = "the same text, which is long enough to be a prefix " * 40
    async with StubWorker("silent") as one, StubWorker("silent") as two:
        await gateway.serve(one, two)
        asking = [asyncio.create_task(ask(gateway, input=text)) for _ in range(8)]
        async with asyncio.timeout(60):
            while len(one.seen) + len(two.seen) < 8:
                await asyncio.sleep(0.02)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert len(one.seen) == len(two.seen) == 4


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("task", "path", "routes"),
    [
        (Task.EMBED, "/v1/chat/completions", EMBEDDINGS),
        (Task.EMBED, "/v1/messages", EMBEDDINGS),
        (Task.GENERATE, EMBEDDINGS, "/v1/chat/completions"),
        (Task.SCORE, EMBEDDINGS, "/v1/rerank"),
    ],
)
async def test_another_task_is_refused_before_any_worker_hears_of_it(
    gateway: Any, task: Task, path: str, routes: str
) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker, task=task)
        messages = [{"role": "user", "content": "hi"}]
        answer = await ask(gateway, path, messages=messages, input="hi", max_tokens=4)
        assert answer.status_code == 400
        assert routes in answer.text
        assert "'m'" in answer.text
        assert not worker.seen
        refused = await gateway.metric("penstock_gateway_refusals_total", code="task_not_supported")
        assert refused == 1


@pytest.mark.anyio
async def test_the_list_of_models_tells_what_is_stated(gateway: Any) -> None:
    async with StubWorker() as worker, plain_http.client() as client:
        await gateway.serve(worker)
        (plain, *_) = (await client.get(f"{gateway.url}/v1/models")).json()["data"]
        assert "task" not in plain
        await gateway.serve(worker, task=Task.EMBED)
        (found, *_) = (await client.get(f"{gateway.url}/v1/models")).json()["data"]
        assert found == {**plain, "task": "embed"}


@pytest.mark.anyio
async def test_many_at_once_are_all_answered(gateway: Any) -> None:
    async with StubWorker() as one, StubWorker() as two:
        await gateway.serve(one, two)
        answers = await asyncio.gather(*(ask(gateway, input=str(n)) for n in range(50)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"input": "abcd"}, 4),
        ({"input": ["abcd", "ef"]}, 6),
        ({"input": [1, 2, 3]}, 3 * ID_SIZE),
        ({"input": [[1, 2], [3]]}, 3 * ID_SIZE),
        ({"query": "ab", "documents": ["cde", {"text": "f"}]}, 2 * 2 + 4),
        ({"text_1": ["a", "bc"], "text_2": ["d", "e"]}, 5),
        ({"text_1": "abc", "text_2": "d"}, 4),
        ({"prompt": "abc"}, 0),
        ({"input": 7}, 0),
    ],
)
def test_inputs_have_a_size(body: dict[str, Any], size: int) -> None:
    assert inputs_size(body) == size


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@given(st.sampled_from(["input", "query", "documents", "text_1", "text_2"]), values, values)
def test_nothing_that_a_client_sends_breaks_it(field: str, value: Any, other: Any) -> None:
    assert inputs_size({field: value, "documents": other, "text_2": other}) >= 0
