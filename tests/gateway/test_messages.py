"""`/v1/messages`: Anthropic's API, with its official client, before workers that speak OpenAI's."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from chat_worker import CHUNKS, STREAM, WHOLE, ChatWorker
from hypothesis import given
from hypothesis import strategies as st
from json_values import json_values

from penstock_contract.errors import ApiError
from penstock_gateway.messages.request import chat_of
from penstock_gateway.messages.response import MessageStream, message_of

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


HI = [{"role": "user", "content": "hi"}]


def client(gateway: Any, **options: Any) -> Any:
    return anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, **options)


async def test_an_answer_that_is_not_streamed(gateway: Any) -> None:
    async with ChatWorker("unstreamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        message = await asking.messages.create(
            model="m",
            max_tokens=9,
            messages=HI,
            system="Be brief.",
            stop_sequences=["END"],
            tools=[{"name": "look", "description": "at it", "input_schema": {"type": "object"}}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
        text, call = message.content
        assert text.text == "Hello"
        assert (call.name, call.input, call.id) == ("look", {"at": 1}, "call_1")
        assert message.stop_reason == "tool_use"
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 8, 4)
        assert worker.seen[0].head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert worker.asked == {
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "system", "content": "Be brief."}, *HI],
            "stop": ["END"],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look",
                        "description": "at it",
                        "parameters": {"type": "object"},
                    },
                }
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        }


async def test_a_stream_gives_the_same_message(gateway: Any) -> None:
    async with ChatWorker("streamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        async with asking.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
        assert kinds[0] == "message_start"
        assert kinds[-1] == "message_stop"
        expected = message_of(WHOLE)
        found = message.model_dump()
        assert [block["type"] for block in found["content"]] == ["text", "tool_use"]
        assert found["content"][0]["text"] == "Hello"
        assert found["content"][1]["input"] == {"at": 1}
        for field in ("id", "model", "stop_reason", "stop_sequence"):
            assert found[field] == expected[field]
        for field in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
            assert found["usage"][field] == expected["usage"][field]
        assert worker.asked["stream_options"] == {"include_usage": True}


async def test_a_conversation_with_tools_is_said_in_the_other_words(gateway: Any) -> None:
    async with ChatWorker("unstreamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        use = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}}
        thought = {"type": "thinking", "thinking": "…", "signature": "x"}
        result = {"type": "tool_result", "tool_use_id": "call_1", "content": "seen"}
        await asking.messages.create(
            model="m",
            max_tokens=9,
            messages=[
                *HI,
                {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}, use]},
                {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
            ],
        )
        assert worker.asked["messages"] == [
            *HI,
            {
                "role": "assistant",
                "content": "a",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at":1}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
            {"role": "user", "content": "and?"},
        ]


@pytest.mark.parametrize(
    ("script", "model", "error"),
    [
        ("refuse", "m", "BadRequestError"),
        ("unstreamed", "nobody", "NotFoundError"),
        ("die", "m", "InternalServerError"),
    ],
)
async def test_errors_have_the_shape_that_its_client_knows(
    gateway: Any, script: str, model: str, error: str
) -> None:
    async with ChatWorker(script) as worker, client(gateway) as asking:
        await gateway.serve(worker)
        with pytest.raises(getattr(anthropic, error)) as refused:
            await asking.messages.create(model=model, max_tokens=9, messages=HI)
        assert refused.value.body["type"] == "error"
        assert refused.value.body["error"]["message"]


async def test_a_stream_that_cannot_be_finished_is_an_error(gateway: Any) -> None:
    class Cut(ChatWorker):
        async def _cut_off(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            event = b"data: " + json.dumps(CHUNKS[1]).encode() + b"\n\n"
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(event), event)
            )
            await writer.drain()
            return False

    async with Cut("cut_off") as worker, client(gateway) as asking:
        await gateway.serve(worker)

        async def read() -> None:
            async with asking.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
                async for _ in stream:
                    pass

        with pytest.raises(anthropic.APIError):
            await read()


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": HI, "system": 1}, "system"),
        ({"messages": HI, "tools": {"a": 1}}, "tools"),
        ({"messages": HI, "tools": [{"type": "bash_20250124"}]}, "tools[0].type"),
        ({"messages": HI, "tools": [{}], "tool_choice": {"type": ["x"]}}, "tool_choice.type"),
    ],
)
def test_what_cannot_be_said_is_refused_by_path(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat_of(body)
    assert refused.value.param == param


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=20))
def test_a_stream_may_come_in_any_pieces(cuts: list[int]) -> None:
    whole = STREAM + b"data: [DONE]\n\n"
    edges = [0, *sorted(cuts), len(whole)]
    pieces = MessageStream()
    found = b"".join(pieces.feed(whole[a:b]) for a, b in pairwise(edges))
    assert found == MessageStream().feed(whole)
    assert found.count(b"event: content_block_stop") == 2


values = json_values(
    ["type", "role", "content", "text", "tool_use", "input", "name"],
    ["text", "user", "assistant", "tool_use", "tool_result"],
)
requests = st.fixed_dictionaries(
    {"messages": st.lists(values, max_size=3)},
    optional=dict.fromkeys(["system", "tools", "tool_choice", "metadata"], values),
)


@given(requests)
def test_whatever_is_sent_is_said_or_refused_by_path(body: dict[str, Any]) -> None:
    try:
        said = chat_of(body)["messages"]
    except ApiError as error:
        said = error.param
    assert said
