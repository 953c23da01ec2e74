"""Sampling: deterministic by (seed, choice, position), and true to the distribution it is given."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock_worker.messages import Sampling
from penstock_worker.penalties import TokenHistory, penalised
from penstock_worker.random_sampling import random_sample, uniform
from penstock_worker.sampling import Row, sample

VOCAB = 12


def row(position: int = 0, forbidden: tuple[int, ...] = (), **options: Any) -> Row:
    wanted = Sampling(**options)
    had = history([1, 2, *range(position)], 2) if penalised(wanted) else None
    return Row(wanted, position, forbidden, history=had)


def history(tokens: list[int], prompt_length: int) -> TokenHistory:
    return TokenHistory(prompt_length).follow(tokens)


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
    greedy = row(temperature=0.0, position=12, frequency_penalty=0.0)
    assert sample(logits(), [greedy])[0] == [11]
    unseen = Row(
        Sampling(temperature=0.0, presence_penalty=2.0), 3, history=history([11, 10, 9], 0)
    )
    assert sample(logits(), [unseen])[0] == [8]
    twice = Row(Sampling(temperature=0.0, frequency_penalty=0.3), 2, history=history([11, 11], 0))
    assert sample(logits(), [twice])[0] == [10]
    prompt = Row(Sampling(temperature=0.0, repetition_penalty=2.0), 0, history=history([11, 10], 2))
    assert sample(logits(), [prompt])[0] == [9]


def test_logprobs_are_the_models_own() -> None:
    wanted = logits()[0].log_softmax(-1)
    biased = row(temperature=0.0, logprobs=2, logit_bias={0: 100.0})
    tokens, reported = sample(logits(), [biased])
    assert tokens == [0]
    assert reported[0] is not None
    assert reported[0].logprob == pytest.approx(float(wanted[0]))
    assert [token for token, _ in reported[0].top] == [11, 10]
    assert sample(logits(), [row()])[1] == [None]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
    st.integers(0, 20),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_what_was_there_is_counted_as_it_grows(
    steps: list[tuple[int, bool]], prompt_length: int, drafts: list[int]
) -> None:
    wanted = Sampling(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25)
    tokens: list[int] = []
    growing = TokenHistory(prompt_length)
    for token, looked_at in steps:
        tokens.append(token)
        if looked_at:
            growing.follow(tokens)
    growing.follow(tokens)

    def applied(to: TokenHistory) -> list[float]:
        row = torch.linspace(-2, 2, 6)
        to.apply(wanted, row)
        return row.tolist()

    assert applied(growing.beyond(drafts)) == applied(history(tokens + drafts, prompt_length))
    assert applied(growing) == applied(history(tokens, prompt_length))
    counts = Counter(tokens[prompt_length:])
    for token, value in enumerate(torch.linspace(-2, 2, 6).tolist()):
        if token in tokens:
            value = value / 1.5 if value > 0 else value * 1.5
        if counts[token]:
            value -= 0.25 * counts[token] + 0.5
        assert applied(growing)[token] == pytest.approx(value, abs=1e-6)


def drawn_from_all(logits: torch.Tensor, wanted: Sampling, position: int) -> int:
    """Draw from one row by sorting all of it, the plain way."""
    scaled = logits / wanted.temperature
    order = scaled.sort(descending=True, stable=True).indices
    mass = scaled.softmax(-1).gather(-1, order).double()
    if wanted.top_k:
        mass[wanted.top_k :] = 0.0
    mass /= mass.sum()
    before = mass.cumsum(-1) - mass
    excluded = (before >= wanted.top_p) | (mass < wanted.min_p * mass[0])
    excluded[0] = False
    cumulative = mass.masked_fill(excluded, 0.0).cumsum(-1)
    target = uniform(wanted.seed, wanted.choice, position) * cumulative[-1]
    return int(order[int((cumulative <= target).sum())])


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 2**31),
    st.sampled_from([40, 700, 9000]),
    st.sampled_from([0.2, 1.0, 4.0]),
    st.booleans(),
    st.floats(0.0, 0.99),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.3, 1.0, 3.0]),
        top_k=st.sampled_from([0, 1, 40, 256, 300, 9000]),
        top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
        min_p=st.sampled_from([0.0, 0.01, 0.5]),
        seed=st.integers(0, 100),
    ),
)
def test_filters_draw_what_sorting_the_whole_vocabulary_would_draw(
    seed: int, vocab: int, spread: float, coarse: bool, banned: float, wanted: Sampling
) -> None:
    assume(wanted.top_k or wanted.top_p < 1.0 or wanted.min_p)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=generator) * spread
    if coarse:  # many are equal, as where a model computes in bfloat16
        logits = (logits * 4).round() / 4
    logits[torch.rand(3, vocab, generator=generator) < banned] = -torch.inf
    logits[:, vocab // 2] = spread
    logits[:, 3], logits[:, 5] = 0.0, -0.0  # which are equal
    found = random_sample(logits, [wanted] * 3, [0, 1, 2]).tolist()
    assert found == [drawn_from_all(logits[i], wanted, i) for i in range(3)]
    assert found[1:2] == random_sample(logits[1:2], [wanted], [1]).tolist()
