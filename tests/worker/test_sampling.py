"""Sampling: deterministic by (seed, choice, position), and true to the distribution it is given."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.messages import Sampling
from penstock_worker.sampling import Row, sample, uniform

VOCAB = 12


def row(position: int = 0, forbidden: tuple[int, ...] = (), **options: Any) -> Row:
    return Row(Sampling(**options), [1, 2, *range(position)], 2, forbidden)


def logits(rows: int = 1) -> torch.Tensor:
    return torch.linspace(-2, 2, VOCAB).repeat(rows, 1)


def draw(count: int = 4000, **options: Any) -> Counter[int]:
    rows = [row(seed=seed, **options) for seed in range(count)]
    return Counter(sample(logits(count), rows)[0])


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 127), st.integers(0, 2**31))
def test_uniform_is_a_function_into_the_unit_interval(seed: int, choice: int, place: int) -> None:
    number = uniform(seed, choice, place)
    assert 0.0 <= number < 1.0
    assert number == uniform(seed, choice, place)


def test_frequencies_follow_the_distribution() -> None:
    found = draw()
    wanted = logits()[0].softmax(-1)
    for token in range(VOCAB):
        assert abs(found[token] / 4000 - wanted[token]) < 0.03


def test_temperature_zero_is_the_likeliest_token() -> None:
    assert draw(10, temperature=0.0) == {VOCAB - 1: 10}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, {11}),
        ({"top_k": 3}, {9, 10, 11}),
        ({"top_p": 0.01}, {11}),
        ({"top_p": 0.5}, {10, 11}),
        ({"min_p": 0.99}, {11}),
        ({"min_p": 0.4}, {9, 10, 11}),
        ({"top_k": 2, "min_p": 0.01}, {10, 11}),
    ],
)
def test_filters_keep_exactly_what_they_promise(options: dict[str, Any], kept: set[int]) -> None:
    assert set(draw(2000, **options)) == kept


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    mixed = [
        row(seed=5, position=3),
        row(seed=6, top_k=2),
        row(temperature=0.0),
        row(seed=5, position=3, top_p=0.7),
    ]
    together = sample(logits(4), mixed)[0]
    assert together == [sample(logits(), [one])[0][0] for one in mixed]


def test_choices_and_positions_draw_differently() -> None:
    by_choice = {tuple(sample(logits(), [row(seed=1, choice=c)])[0]) for c in range(40)}
    by_place = {tuple(sample(logits(), [row(seed=1, position=p)])[0]) for p in range(40)}
    assert len(by_choice) > 3
    assert len(by_place) > 3


def test_forbidden_and_biased_tokens() -> None:
    assert sample(logits(), [row(temperature=0.0, forbidden=(11, 10))])[0] == [9]
    assert sample(logits(), [row(temperature=0.0, logit_bias={0: 100.0})])[0] == [0]


def test_penalties_push_seen_tokens_down() -> None:
    # Output 0..10: with a strong presence penalty only 11 is unseen there.
    greedy = {"temperature": 0.0, "position": 12}
    assert sample(logits(), [row(**greedy, frequency_penalty=0.0)])[0] == [11]
    unseen = Row(Sampling(temperature=0.0, presence_penalty=2.0), [11, 10, 9], 0, ())
    assert sample(logits(), [unseen])[0] == [8]
    twice = Row(Sampling(temperature=0.0, frequency_penalty=0.3), [11, 11], 0, ())
    assert sample(logits(), [twice])[0] == [10]
    prompt = Row(Sampling(temperature=0.0, repetition_penalty=2.0), [11, 10], 2, ())
    assert sample(logits(), [prompt])[0] == [9]


def test_logprobs_are_the_models_own() -> None:
    wanted = logits()[0].log_softmax(-1)
    options = {"temperature": 0.0, "logprobs": 2, "logit_bias": {0: 100.0}}
    tokens, reported = sample(logits(), [row(**options)])
    assert tokens == [0]
    assert reported[0] is not None
    assert reported[0].logprob == pytest.approx(float(wanted[0]))
    assert [token for token, _ in reported[0].top] == [11, 10]
    assert sample(logits(), [row()])[1] == [None]
