"""`/v1/responses`: OpenAI's newer API, with its client, before workers that speak the older one."""

import json
from itertools import pairwise
from typing import Any

import openai
import pytest
from chat_worker import FUNCTION, STREAM, WHOLE, ChatWorker, chunk
from hypothesis import given
from hypothesis import strategies as st
from json_values import json_values

from penstock_contract.errors import ApiError
from penstock_gateway.responses.request import chat_of
from penstock_gateway.responses.response import ResponseStream, response_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


TOOL: Any = {
    "type": "function",
    "name": "look",
    "description": "at it",
    "parameters": {"type": "object"},
    "strict": True,
}

IMAGE = {"type": "input_image", "image_url": "http://x"}


def client(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


async def test_an_answer_that_is_not_streamed(gateway: Any) -> None:
    async with ChatWorker("unstreamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        response = await asking.responses.create(
            model="m",
            input="hi",
            instructions="Be brief.",
            max_output_tokens=20,
            tools=[TOOL],
            tool_choice="required",
            text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        )
        assert response.output_text == "Hello"
        assert response.status == "completed"
        message, call = response.output
        assert message.type == "message"
        assert call.type == "function_call"
        assert (call.name, call.arguments, call.call_id) == ("look", '{"at": 1}', "call_1")
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens == 8
        assert response.usage.total_tokens == 14
        assert response.instructions == "Be brief."
        assert worker.asked == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ],
            "max_completion_tokens": 20,
            "tools": [
                {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}
            ],
            "tool_choice": "required",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
        }


async def test_a_stream_gives_the_same_response(gateway: Any) -> None:
    async with ChatWorker("streamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        async with asking.responses.stream(model="m", input="hi") as stream:
            events = [event async for event in stream]
            response = await stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type.removeprefix("response.") for event in events]
        assert kinds == [
            "created", "in_progress",
            "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
            "output_text.done", "content_part.done", "output_item.done",
            "output_item.added", "function_call_arguments.delta",
            "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
            "completed",
        ]  # fmt: skip
        whole = response_of(WHOLE, {})
        assert response.output_text == "Hello"
        assert response.output[1].arguments == '{"at": 1}'  # type: ignore[union-attr]
        assert response.usage is not None
        used = response.usage.model_dump()
        assert {name: used[name] for name in ("input_tokens", "output_tokens")} == {
            name: whole["usage"][name] for name in ("input_tokens", "output_tokens")
        }
        assert (response.id, response.status) == (whole["id"], whole["status"])
        assert worker.asked["stream_options"] == {"include_usage": True}


async def test_a_conversation_with_tools_is_said_in_the_other_words(gateway: Any) -> None:
    async with ChatWorker("unstreamed") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        made = {"type": "function_call", "call_id": "call_1", **FUNCTION}
        items: list[Any] = [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "r", "summary": []},
            made,
            {**made, "call_id": "call_2"},
            {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
            {"type": "function_call_output", "call_id": "call_2", "output": "seen too"},
        ]
        await asking.responses.create(model="m", input=items)
        own = {"type": "function", "function": FUNCTION}
        calls = [{"id": f"call_{n}", **own} for n in (1, 2)]
        assert worker.asked["messages"] == [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
            {"role": "tool", "tool_call_id": "call_2", "content": "seen too"},
        ]


async def test_errors_are_the_ones_that_its_client_knows(gateway: Any) -> None:
    async with ChatWorker("refuse") as worker, client(gateway) as asking:
        await gateway.serve(worker)
        with pytest.raises(openai.BadRequestError):
            await asking.responses.create(model="m", input="hi")
        with pytest.raises(openai.NotFoundError):
            await asking.responses.create(model="nobody", input="hi")
        with pytest.raises(openai.BadRequestError, match="not stored"):
            await asking.responses.create(model="m", input="hi", previous_response_id="resp_1")


def test_an_answer_that_was_cut_by_its_limit_is_incomplete() -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "length"}
    found = response_of({**WHOLE, "choices": [choice]}, {})
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    stream = ResponseStream({})
    data = json.dumps(chunk(content="x", finish_reason="length")).encode()
    said = stream.feed(b"data: " + data + b"\n\ndata: [DONE]\n\n")
    assert b"event: response.incomplete\n" in said


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "background": True}, "background"),
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
    pieces = ResponseStream({})
    found = b"".join(pieces.feed(whole[a:b]) for a, b in pairwise(edges))
    assert found == ResponseStream({}).feed(whole)
    assert found.count(b"event: response.output_item.done") == 2


values = json_values(
    ["type", "role", "content", "text", "output", "format", "name"],
    ["text", "user", "message", "function_call", "json_schema"],
)
requests = st.fixed_dictionaries(
    {"input": st.lists(values, max_size=3)},
    optional=dict.fromkeys(["instructions", "tools", "tool_choice", "text"], values),
)


@given(requests)
def test_whatever_is_sent_is_said_or_refused_by_path(body: dict[str, Any]) -> None:
    try:
        said: str | None = str(chat_of(body)["messages"])
    except ApiError as error:
        said = error.param
    assert said
