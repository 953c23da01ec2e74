"""Tools as the official client offers them: what must be called is called, and always parses."""

import json
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
import tool_models
from openai import BadRequestError, OpenAI
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.headers import JOURNAL
from penstock_contract.journal import FIELD, parse

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now", "description": "the time"}},
]
ASKED: dict[str, Any] = {
    "model": NAME,
    "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
    "tools": TOOLS,
}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module", params=["HERMES", "LLAMA3"])
def taught(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("taught")
    model = tool_models.make(folder, getattr(tool_models, request.param))
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(log, "--dtype", "float32", model=model) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def asking(taught: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{taught.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def checked(calls: Any) -> list[str]:
    """Check calls against their schemas; return their names."""
    for call in calls:
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            assert list(arguments) == ["city"]
            assert len(arguments["city"]) <= 6
        else:
            assert (call.function.name, arguments) == ("now", {})
    assert len({call.id for call in calls}) == len(calls)
    return [call.function.name for call in calls]


def test_a_required_call_always_parses(asking: OpenAI) -> None:
    answer = asking.chat.completions.create(
        **ASKED,
        tool_choice="required",
        parallel_tool_calls=False,
        n=8,
        seed=1,
        temperature=1.5,
        max_tokens=200,
    )
    seen = set()
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (name,) = checked(choice.message.tool_calls)
        seen.add(name)
    assert seen == {"weather", "now"}


def test_several_calls_may_come_at_once(asking: OpenAI) -> None:
    answer = asking.chat.completions.create(
        **ASKED, tool_choice="required", n=12, seed=2, temperature=3.0, max_tokens=300
    )
    finished = [c.message.tool_calls for c in answer.choices if c.finish_reason == "tool_calls"]
    assert max(len(checked(calls)) for calls in finished) > 1


def test_a_named_call_is_of_that_tool(asking: OpenAI) -> None:
    answer = asking.chat.completions.create(**ASKED, tool_choice=NAMED, n=4, seed=1, max_tokens=200)
    for choice in answer.choices:
        assert checked(choice.message.tool_calls) == ["weather"]
        assert choice.finish_reason == "tool_calls"


def test_a_stream_joins_to_the_whole_answer(asking: OpenAI) -> None:
    options: dict[str, Any] = {"tool_choice": "required", "seed": 4, "max_tokens": 300}
    whole = asking.chat.completions.create(**ASKED, **options).choices[0]
    chunks = [c.choices[0] for c in asking.chat.completions.create(**ASKED, **options, stream=True)]
    assert chunks[0].delta.role == "assistant"
    assert chunks[-1].finish_reason == whole.finish_reason
    joined: dict[int, Any] = {}
    for piece in (piece for chunk in chunks for piece in chunk.delta.tool_calls or []):
        assert piece.function is not None
        if piece.id is not None:
            assert piece.index == len(joined)
            joined[piece.index] = [piece.function.name, ""]
        joined[piece.index][1] += piece.function.arguments or ""
    wanted = [[c.function.name, c.function.arguments] for c in whole.message.tool_calls or []]
    assert [joined[index] for index in sorted(joined)] == wanted


def test_a_call_is_streamed_in_pieces(asking: OpenAI) -> None:
    chunks = asking.chat.completions.create(**ASKED, tool_choice=NAMED, seed=6, stream=True)
    pieces = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert len(pieces) > 2


def test_the_helper_of_the_official_client_reads_the_stream(asking: OpenAI) -> None:
    with asking.chat.completions.stream(**ASKED, tool_choice=NAMED, seed=5) as stream:
        found = stream.get_final_completion().choices[0].message.tool_calls
    assert checked(found) == ["weather"]


def test_auto_leaves_the_choice_to_the_model(asking: OpenAI) -> None:
    answer = asking.chat.completions.create(**ASKED, temperature=0, max_tokens=12)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_strict_tools_are_called_rightly_or_not_at_all(asking: OpenAI) -> None:
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    asked = {**ASKED, "tools": strict}
    answer = asking.chat.completions.create(**asked, seed=1, n=6, temperature=2.0, max_tokens=60)
    for choice in answer.choices:
        if choice.finish_reason == "tool_calls":
            checked(choice.message.tool_calls)
    assert any(choice.message.content for choice in answer.choices)


def test_with_a_schema_the_answer_is_a_call_or_fits_it(asking: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    answer = asking.chat.completions.create(
        **ASKED, response_format=form, n=8, seed=3, temperature=2.0, max_tokens=200
    )
    for choice in answer.choices:
        if choice.finish_reason == "stop":
            assert list(json.loads(choice.message.content or "")) == ["city"]
        elif choice.finish_reason == "tool_calls":
            checked(choice.message.tool_calls)


def test_none_calls_nothing_and_does_not_tell_the_model_of_tools(asking: OpenAI) -> None:
    plain = {name: value for name, value in ASKED.items() if name != "tools"}
    with_none = asking.chat.completions.create(**ASKED, tool_choice="none", max_tokens=1)
    without = asking.chat.completions.create(**plain, max_tokens=1)
    offered = asking.chat.completions.create(**ASKED, max_tokens=1)
    assert with_none.usage is not None
    assert without.usage is not None
    assert offered.usage is not None
    assert with_none.usage.prompt_tokens == without.usage.prompt_tokens
    assert offered.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_conversation_with_calls_and_results_goes_on(asking: OpenAI) -> None:
    first = asking.chat.completions.create(**ASKED, tool_choice=NAMED, seed=1, max_tokens=200)
    said = first.choices[0].message
    result = {"role": "tool", "tool_call_id": (said.tool_calls or [])[0].id, "content": "sunny"}
    messages: Any = [*ASKED["messages"], said.model_dump(exclude_none=True), result]
    second = asking.chat.completions.create(**{**ASKED, "messages": messages}, max_tokens=4)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_cut_stream_goes_on_with_its_calls(taught: WorkerProcess) -> None:
    payload = {**ASKED, "tool_choice": "required", "seed": 3, "stream": True, "max_tokens": 60}
    url, headers = f"{taught.url}/v1/chat/completions", {JOURNAL: "1"}
    whole = plain_http.post(url, json=payload, headers=headers).content
    ends = [i + 2 for i in range(len(whole)) if whole[i : i + 2] == b"\n\n"][:-1]
    assert len(ends) > 4
    for cut in ends:
        found = parse(whole[:cut]).resume
        assert found is not None
        again = {**payload, FIELD: found.model_dump()}
        rest = plain_http.post(url, json=again, headers=headers).content
        assert whole[:cut] + rest == whole


def test_tokenize_counts_tools_too(taught: WorkerProcess) -> None:
    body = {"messages": ASKED["messages"]}
    url = f"{taught.url}/tokenize"
    plain = plain_http.post(url, json=body).json()["count"]
    assert plain_http.post(url, json={**body, "tools": TOOLS}).json()["count"] > plain


CALL: dict[str, Any] = {"type": "function", "function": {"name": "now", "arguments": "{"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": (
        {"tool_choice": {"type": "function", "function": {"name": "nobody"}}},
        "tool_choice",
    ),
    "no tools": ({"tools": None, "tool_choice": "required"}, "tool_choice"),
    "odd choice": ({"tool_choice": "perhaps"}, "tool_choice"),
    "a name twice": ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
    "odd name": ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
    "odd type": ({"tools": [{"type": "web", "function": {"name": "a"}}]}, "tools[0].type"),
    "too many": ({"tools": [TOOLS[0]] * 129}, "tools"),
    "broken schema": (
        {
            "tools": [{"function": {"name": "f", "parameters": {"type": "cat"}}}],
            "tool_choice": "required",
        },
        "tools",
    ),
    "two wishes": ({"tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
    "cut arguments": (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(asking: OpenAI, case: str) -> None:
    body, param = REFUSED[case]
    with pytest.raises(BadRequestError) as caught:
        asking.chat.completions.create(**{**ASKED, "extra_body": body})
    assert caught.value.param == param


def test_a_model_that_was_not_taught_tools_refuses_them(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="no tool calls") as caught:
        client.chat.completions.create(**ASKED)
    assert caught.value.param == "tools"
