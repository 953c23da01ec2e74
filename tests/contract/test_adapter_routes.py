"""What engines answer of their adapters: Penstock's, vLLM's, and what is neither."""

import json
from typing import Any

import pytest

from penstock_contract.adapter_routes import listed, load_body, refusal


def test_adapters_are_listed_with_their_folders_and_models_are_not() -> None:
    models = [
        {"id": "m", "root": "/models/m", "parent": None},
        {"id": "sql", "root": "/adapters/sql", "parent": "m"},
        {"id": "law", "root": None, "parent": "m"},
    ]
    assert listed({"data": models}) == {"sql": "/adapters/sql", "law": ""}


@pytest.mark.parametrize("answer", [None, [], "x", {}, {"data": 3}, {"data": [{"parent": "m"}]}])
def test_what_is_no_list_of_models_is_no_list_of_adapters(answer: Any) -> None:
    with pytest.raises(ValueError, match="no list of models"):
        listed(answer)


def test_only_what_takes_anothers_place_is_loaded_in_place() -> None:
    assert load_body("sql", "/a", again=False) == {"lora_name": "sql", "lora_path": "/a"}
    assert load_body("sql", "/a", again=True)["load_inplace"] is True


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no room"}}, "no room"),
        ({"object": "error", "message": "no room"}, "no room"),
        ([], "the engine answers 500 []"),
        ({"error": None}, 'the engine answers 500 {"error": null}'),
    ],
)
def test_a_refusal_is_told_in_the_engines_words(body: object, words: str) -> None:
    assert refusal(500, json.dumps(body).encode()) == words
