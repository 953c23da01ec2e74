"""Outputs that follow a grammar: what may be drawn, whatever happened to the request before."""

import json
import time
from typing import Any

import pytest
from engines import GREEDY, collect, drain, torch_engine
from llguidance import LLMatcher
from worker_process import EXAMPLE_MODEL

from penstock_worker.engine import Engine
from penstock_worker.grammar import GrammarError, Grammars
from penstock_worker.messages import AddRequest, FinishReason, Output, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.text.tokenizer import Tokenizer

SHAPE = read_config(EXAMPLE_MODEL)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PROMPT = list(range(60, 100))


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(EXAMPLE_MODEL, SHAPE.vocab_size, SHAPE.eos_token_ids)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(EXAMPLE_MODEL)


def request(name: str, grammar: str, seed: int = 0, **options: Any) -> AddRequest:
    sampling = Sampling(temperature=1.5, seed=seed)
    options = {"max_tokens": 200, "sampling": sampling, "prompt": PROMPT, **options}
    return AddRequest(id=name, grammar=grammar, stop_token_ids=list(SHAPE.eos_token_ids), **options)


def schema(wanted: dict[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(wanted, overrides={"whitespace_pattern": "[ ]?"})


def outputs(engine: Engine, *requests: AddRequest) -> list[Output]:
    for message in requests:
        assert engine.add(message) is None
    return [output for batch in drain(engine) for output in batch.outputs]


def tokens(engine: Engine, *requests: AddRequest) -> list[list[int]]:
    return collect([message.id for message in requests], outputs(engine, *requests))


def make(**options: Any) -> Engine:
    return torch_engine(EXAMPLE_MODEL, **options)


def test_a_hot_model_still_writes_what_the_schema_says(tokenizer: Tokenizer) -> None:
    asked = [request(f"r{seed}", schema(PERSON), seed) for seed in range(4)]
    for found in tokens(make(), *asked):
        person = json.loads(tokenizer.decode(found))
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)


LONG_NAMES = {
    "type": "object",
    "properties": {
        "temperature_in_celsius": {"type": "integer", "minimum": 0, "maximum": 60},
        "wind_from_the_north_east": {"enum": ["a_little_of_it", "rather_a_lot_of_it"]},
    },
    "required": ["temperature_in_celsius", "wind_from_the_north_east"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, seed=4, logprobs=1)])
@pytest.mark.parametrize("proposer", [None, NgramProposer(4)])
def test_what_a_grammar_forces_is_guessed_and_changes_nothing(
    sampling: Sampling, proposer: NgramProposer | None
) -> None:
    asked = [request(f"r{n}", schema(LONG_NAMES), sampling=sampling) for n in range(2)]
    # A budget of one token leaves no room for guesses.
    plain = [tokens(make(budget=1), one)[0] for one in asked]
    engine = make(proposer=proposer)
    for message in asked:
        engine.add(message)
    batches = drain(engine)
    assert collect(["r0", "r1"], [o for b in batches for o in b.outputs]) == plain
    assert len(batches) < len(plain[0]) * 0.7
    guessed = [batch.stats.drafted for batch in batches if batch.stats.drafted]
    assert sum(sum(one.accepted) for one in guessed) > 0


def test_a_guess_is_only_what_the_grammar_allows(grammars: Grammars, tokenizer: Tokenizer) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    matcher = grammars.matcher('start: /[0-9]+/ "ly" | "x"')
    digits = ids("123")
    assert matcher.guess([], [*digits, *ids("abc")]) == digits
    assert matcher.guess([], ids("abc")) == []
    masks = matcher.allowed([], digits)
    assert len(masks) == len(digits) + 1
    assert matcher.allowed([]) == masks[:1]  # looking ahead leaves no trace
    assert matcher.allowed(digits) == masks[-1:]


def test_preemption_changes_nothing() -> None:
    asked = [request(f"r{seed}", schema(PERSON), seed, max_tokens=60) for seed in range(4)]
    crowded = make(num_blocks=12, caching=False)
    assert tokens(crowded, *asked) == tokens(make(), *asked)
    assert crowded.scheduler.preemptions


def test_an_output_goes_on_elsewhere_after_any_of_its_tokens() -> None:
    asked = request("whole", schema(PERSON), 7)
    (whole,) = tokens(make(), asked)
    other = make()
    for cut in range(1, len(whole)):
        rest = request("rest", schema(PERSON), 7, output=whole[:cut])
        assert tokens(other, rest) == [whole[cut:]]


def test_an_unconstrained_neighbour_is_undisturbed() -> None:
    plain = AddRequest(id="plain", prompt=PROMPT, max_tokens=20, sampling=GREEDY)
    (alone,) = tokens(make(), plain)
    beside, _ = tokens(make(), plain, request("person", schema(PERSON)))
    assert beside == alone


def test_a_complete_output_ends_even_before_min_tokens(tokenizer: Tokenizer) -> None:
    found = outputs(make(), request("r", 'start: "yes" | "no"', min_tokens=50))
    assert found[-1].finish_reason is FinishReason.STOP
    assert tokenizer.decode([t for o in found for t in o.tokens]) in ("yes", "no")


def test_a_broken_grammar_is_refused() -> None:
    refusal = make().add(request("r", "start: ("))
    assert refusal is not None
    assert refusal.finish_reason is FinishReason.ABORT


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "object", "properties": {"a": found}, "required": ["a"]}
    return found


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": nested(200),
    "itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "remote": {"$ref": "http://127.0.0.1:1/schema"},
    "nested repetition": {"type": "string", "pattern": "^(((a{1,99}){1,99}){1,99}){1,99}$"},
    "exponential automaton": {"type": "string", "pattern": "^(.*a.{900}b|.*c.{901}d)*$"},
    "backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "many values": {"enum": [f"v{i}" for i in range(7000)]},
    "many properties": {"properties": {f"k{i}": {"type": "string"} for i in range(2000)}},
    "many alternatives": {"anyOf": [{"properties": {f"p{i}": {}}} for i in range(2000)]},
    "product": {
        "allOf": [{"anyOf": [{"pattern": f"a{i}.*{j}"} for j in range(8)]} for i in range(8)]
    },
    "long array": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    "long string": {"type": "string", "minLength": 10**9},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_costs_a_bounded_time(grammars: Grammars, name: str) -> None:
    """Refused or followed, but never for long: process time, so a busy machine does not matter."""
    began = time.thread_time()
    try:
        matcher = grammars.matcher(schema(HOSTILE[name]))
        for length in range(5):
            matcher.allowed(list(range(100, 100 + length)))
    except (GrammarError, ValueError):
        pass
    assert time.thread_time() - began < 2.0
