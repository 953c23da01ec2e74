"""The official client, a real Envoy, the picker, and real workers with a model."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from envoy_process import EnvoyProcess
from openai import AsyncOpenAI
from picker_process import PickerProcess
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.worker_token import ENVIRONMENT

pytestmark = pytest.mark.anyio
TOKEN = "0123456789abcdef"
SYSTEM = "You know the Python documentation by heart. " * 20


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WorkerProcess]]:
    folder = tmp_path_factory.mktemp("workers")
    with ExitStack() as stack:
        found = [stack.enter_context(worker(folder / f"{n}.log", token=TOKEN)) for n in range(2)]
        for one in found:
            eventually(lambda one=one: one.health() == (200, "ok"), "the worker is ready", 120)  # type: ignore[misc]
        yield found


async def test_chats_are_answered_where_their_beginning_is_cached(
    tmp_path: Path, workers: list[WorkerProcess]
) -> None:
    picker = PickerProcess(tmp_path, "--secure-serving", environment={ENVIRONMENT: TOKEN})
    envoy = EnvoyProcess(tmp_path / "envoy", picker.grpc_port, tls=True)
    try:
        picker.write(*((f"w{n}", one.url) for n, one in enumerate(workers)), name=NAME)
        await picker.start()
        await picker.followed()
        envoy.start()
        async with AsyncOpenAI(base_url=f"{envoy.url}/v1", api_key="of-the-gateway") as client:
            assert NAME in [model.id async for model in client.models.list()]
            for question in ("What is a list?", "What is a generator?", "What is a set?"):
                messages: Any = [
                    {"role": "system", "content": SYSTEM}, {"role": "user", "content": question},
                ]  # fmt: skip
                whole = await client.chat.completions.create(
                    model=NAME, messages=messages, max_tokens=8, temperature=0
                )
                options: Any = {"include_usage": True}
                text, usage = "", None
                stream = await client.chat.completions.create(
                    model=NAME, messages=messages, max_tokens=8, temperature=0,
                    stream=True, stream_options=options,
                )  # fmt: skip
                async for chunk in stream:
                    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    usage = chunk.usage or usage
                assert text == whole.choices[0].message.content
                assert usage is not None
                assert usage.prompt_tokens_details is not None
        answered = [one.metric("vllm:request_success_total") for one in workers]
        assert sorted(answered) == [0, 6]
        # What was cached is learned of whole answers and, by their usage, of streams.
        cached = await picker.metric("penstock_gateway_prefix_cached_tokens_total")
        right = await picker.metric("penstock_gateway_prefix_right_tokens_total")
        assert 0 < right <= cached
        assert await picker.metric("penstock_gateway_outcomes_total", outcome="complete") == 6
        loads = (await picker.workers()).workers
        assert sum(load.requests for load in loads.values()) == 6
        assert all(load.in_flight == 0 for load in loads.values())
    finally:
        envoy.stop()
        picker.stop()
