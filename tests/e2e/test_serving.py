"""From YAML to streamed tokens, with nothing mocked: the promises that users rely on.

Covered: the official client, the streaming invariants, shared prefixes under load, and what happens
to clients when a worker is killed. Not covered here: the commands themselves (tests/local).
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI
from openai.types.chat import ChatCompletion
from stream_auditor import audit, record

pytestmark = pytest.mark.e2e

MODEL = "pydoc"
CHAT = "/v1/chat/completions"


def chat(question: str, **options: Any) -> dict[str, Any]:
    """Return the body of a greedy, streamed chat request with usage."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 48,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }


@pytest.fixture(scope="module")
def client(stack: Any) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)


def test_the_official_client_streams_chat_with_usage(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**chat("What is a list?")))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    usage = chunks[-1].usage
    assert text.strip()
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 48


def test_the_official_client_streams_completions(client: OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="A list is", temperature=0, max_tokens=24)
    stream = client.completions.create(
        model=MODEL, prompt="A list is", temperature=0, max_tokens=24, stream=True
    )
    assert "".join(c.choices[0].text for c in stream if c.choices) == whole.choices[0].text


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "payload", "choices"),
    [
        (CHAT, chat("What is a tuple?"), 1),
        (CHAT, chat("What is a set?", n=3, temperature=0.9, seed=7), 3),
        (CHAT, chat("How do I sort a list?", stop=["e", "sort"]), 1),
        (CHAT, chat("Wörter, 日本語 🙂?", temperature=1.5, seed=3, max_tokens=96), 1),
        (CHAT, chat("What is a dict?", max_tokens=1), 1),
        (
            "/v1/completions",
            {
                "model": MODEL,
                "prompt": ["A list is", "A function"],
                "max_tokens": 16,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            2,
        ),
    ],
    ids=["chat", "three-choices", "stop", "utf-8", "one-token", "two-prompts"],
)
async def test_streams_keep_every_invariant_and_equal_the_whole_answer(
    stack: Any, path: str, payload: dict[str, Any], choices: int
) -> None:
    streamed = audit(await record(stack.url, path, payload), include_usage=True, choices=choices)
    assert streamed.violations == []
    assert streamed.outcome == "complete"

    whole = {k: v for k, v in payload.items() if k not in ("stream", "stream_options")}
    answer = (await record(stack.url, path, whole)).json()
    texts = {
        c["index"]: c["message"]["content"] if "message" in c else c["text"]
        for c in answer["choices"]
    }
    assert streamed.texts == texts
    assert streamed.usage is not None
    assert streamed.usage["completion_tokens"] == answer["usage"]["completion_tokens"]


@pytest.mark.anyio
async def test_64_requests_with_shared_prefixes_hit_the_cache_and_leave_nothing_behind(
    stack: Any,
) -> None:
    def blocks_in_use() -> float:
        return float(stack.metric("penstock_worker_kv_blocks", state="used"))

    stack.eventually(lambda: blocks_in_use() == 0, "the workers are idle")
    before = stack.metric("vllm:prefix_cache_hits_total")
    system = "You are a helpful assistant who knows the Python documentation well. " * 6
    payloads = [
        chat(
            f"What is a {word}?",
            messages=[
                {"role": "system", "content": system + str(group)},
                {"role": "user", "content": f"What is a {word}? ({number})"},
            ],
            max_tokens=16,
            ignore_eos=True,
        )
        for group in range(4)
        for number, word in enumerate(["list", "tuple", "set", "dict"] * 4)
    ]
    recordings = await asyncio.gather(*(record(stack.url, CHAT, p) for p in payloads))

    verdicts = [audit(recording, include_usage=True) for recording in recordings]
    assert [v.violations for v in verdicts] == [[]] * 64
    assert {v.outcome for v in verdicts} == {"complete"}
    assert {v.usage["completion_tokens"] for v in verdicts if v.usage} == {16}
    assert stack.metric("vllm:prefix_cache_hits_total") > before
    stack.eventually(lambda: blocks_in_use() == 0, "every block is given back")


@pytest.mark.anyio
async def test_a_client_that_leaves_frees_its_blocks(stack: Any) -> None:
    began = asyncio.Event()
    payload = chat("Tell me everything.", max_tokens=900, ignore_eos=True)
    reading = asyncio.create_task(record(stack.url, CHAT, payload, first_piece=began))
    await asyncio.wait_for(began.wait(), 60)
    reading.cancel()

    def idle() -> bool:
        running = stack.metric("vllm:num_requests_running")
        return bool(running == 0 and stack.metric("penstock_worker_kv_blocks", state="used") == 0)

    await asyncio.to_thread(stack.eventually, idle, "the aborted request's blocks are free")


@pytest.mark.anyio
async def test_a_killed_worker_is_noticed_by_no_client_and_replaced(
    stack: Any, client: OpenAI
) -> None:
    victims = stack.workers()
    started = [asyncio.Event() for _ in range(6)]
    payload = chat("Tell me everything.", max_tokens=900, ignore_eos=True)
    streams = [
        asyncio.create_task(record(stack.url, CHAT, payload, first_piece=event))
        for event in started
    ]
    await asyncio.gather(*(asyncio.wait_for(event.wait(), 60) for event in started))
    os.kill(victims[0]["pid"], signal.SIGKILL)
    verdicts = [audit(await stream, include_usage=True) for stream in streams]

    assert [(v.outcome, v.violations) for v in verdicts] == [("complete", [])] * 6
    assert len({v.texts[0] for v in verdicts}) == 1
    assert {v.usage["completion_tokens"] for v in verdicts if v.usage} == {900}

    # Everything that comes after the death is served, too, first by the worker that is left.
    def ask() -> ChatCompletion:
        return client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "What is a list?"}], max_tokens=8
        )

    for _ in range(8):
        answer = await asyncio.to_thread(ask)
        assert answer.choices[0].message.content

    def replaced() -> bool:
        ready = {w["id"] for w in stack.workers() if w["state"] == "Ready"}
        return len(ready) == 2 and victims[0]["id"] not in ready

    await asyncio.to_thread(stack.eventually, replaced, "the killed worker is replaced")


def test_the_openai_client_raises_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(APIError) as unknown:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "Hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(APIError) as long:
        client.completions.create(model=MODEL, prompt="word " * 5000)
    assert long.value.code == "context_length_exceeded"


def test_prompts_and_answers_stay_out_of_logs_and_metrics(
    stack: Any, client: OpenAI, tmp_path: Path
) -> None:
    canary = "zq7canary9xw"
    client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": canary}], max_tokens=4
    )
    home = Path(stack.environment["PENSTOCK_HOME"])
    seen = [
        path
        for path in home.rglob("*")
        if path.is_file() and canary in path.read_text("utf-8", "replace")
    ]
    assert seen == []
