"""Structured output as clients ask for it: the answer parses, or the request is refused by name."""

import json
import re
from typing import Any

import plain_http
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, Field
from worker_process import NAME, WorkerProcess

from penstock_worker.server.structured import MAX_GRAMMAR_BYTES

MESSAGES: Any = [{"role": "user", "content": "Who?"}]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["age"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=150)


def test_the_official_client_parses_into_a_model(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=NAME, messages=MESSAGES, response_format=Person, seed=3
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_every_choice_follows_the_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, response_format=FORMAT, n=4, seed=1, temperature=2.0
    )
    for choice in answer.choices:
        assert list(json.loads(choice.message.content or "")) == ["age"]


def test_a_stream_joins_to_the_whole_answer(client: OpenAI) -> None:
    asked: Any = {"model": NAME, "messages": MESSAGES, "response_format": FORMAT, "seed": 5}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_a_json_object_is_an_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        response_format={"type": "json_object"},
        max_tokens=40,
        logit_bias={},
    )
    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize("form", ["structured_outputs", "guided"])
def test_choices_and_expressions_as_vllm_spells_them(served: WorkerProcess, form: str) -> None:
    for kind, value, wanted in (
        ("choice", ["ja", 'n"ein', "äöü €"], r'ja|n"ein|äöü €'),
        ("regex", "[0-9]{3}-[a-f]{2}", "[0-9]{3}-[a-f]{2}"),
        ("json", SCHEMA, r'\{ ?"age" ?: ?[0-9]{1,3} ?\}'),
    ):
        extra = {f"guided_{kind}": value} if form == "guided" else {form: {kind: value}}
        body = {"model": NAME, "prompt": "def", "max_tokens": 60, "temperature": 1.5, **extra}
        answer = plain_http.post(f"{served.url}/v1/completions", json=body).json()
        assert re.fullmatch(wanted, answer["choices"][0]["text"]), answer


def test_a_stop_string_still_ends_it(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, response_format=FORMAT, stop=['"age"']
    )
    assert (answer.choices[0].message.content or "").strip() == "{"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "not an object": ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
    "not json": ({"guided_json": "{"}, "guided_json"),
    "expression": ({"guided_regex": "(a"}, "guided_regex"),
    "no choice": ({"guided_choice": []}, "guided_choice"),
    "too large": ({"guided_regex": "a" * (MAX_GRAMMAR_BYTES + 1)}, "guided_regex"),
    "two": ({"guided_regex": "a", "response_format": FORMAT}, "response_format.json_schema.schema"),
    "remote": ({"guided_json": {"$ref": "http://127.0.0.1:1/x"}}, "guided_json"),
    "unknown type": ({"guided_json": {"type": "banana"}}, "guided_json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_grammar_is_refused_by_name(client: OpenAI, case: str) -> None:
    body, param = REFUSED[case]
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=MESSAGES, extra_body=body)
    assert caught.value.param == param
