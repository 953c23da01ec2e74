"""Guessing goes on where tokens come faster so, and costs little where they do not."""

import random
from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.request import Request
from penstock_worker.speculative.pace import LONGEST_PAUSE, Pace
from penstock_worker.speculative.paced import PacedProposer
from penstock_worker.speculative.proposer import Proposal, Room

STEPS = 4000
Cost = Callable[[bool], tuple[float, int]]
"""Seconds and tokens of a step, with guesses or without."""


def rate(pace: Pace, cost: Cost, steps: int = STEPS) -> float:
    """Return the tokens per second of so many steps."""
    seconds, tokens = 0.0, 0
    for _ in range(steps):
        guessed = pace.next()
        took, came = cost(guessed)
        pace.learn(took, came, guessed=guessed)
        seconds, tokens = seconds + took, tokens + came
    return tokens / seconds


def constant(slower: float, more: int) -> Cost:
    return lambda guessed: (slower, 1 + more) if guessed else (1.0, 1)


@settings(deadline=None)
@given(slower=st.floats(0.9, 4.0), more=st.integers(0, 7))
def test_the_faster_way_is_taken_nearly_all_the_time(slower: float, more: int) -> None:
    best = max(1.0, (1 + more) / slower)
    assert rate(Pace(), constant(slower, more)) > 0.95 * best


@settings(deadline=None)
@given(slower=st.floats(1.05, 3.0), seed=st.integers(0, 99))
def test_what_the_machine_does_meanwhile_changes_little(slower: float, seed: int) -> None:
    generator = random.Random(seed)

    def cost(guessed: bool) -> tuple[float, int]:
        late = 20.0 if generator.random() < 0.02 else generator.uniform(0.9, 1.1)
        return late * (slower if guessed else 1.0), 1

    pace, guesses = Pace(), 0
    for _ in range(STEPS):
        guessed = pace.next()
        guesses += guessed
        pace.learn(*cost(guessed), guessed=guessed)
    assert guesses * (slower - 1) < 0.08 * STEPS


@settings(deadline=None)
@given(slower=st.floats(1.0, 2.0), more=st.integers(2, 7))
def test_texts_that_begin_to_repeat_are_found_and_left_again(slower: float, more: int) -> None:
    pace = Pace()
    gain = (1 + more) / slower
    for _ in range(2):
        rate(pace, constant(1.5 * slower, 0))
        for _ in range(LONGEST_PAUSE + 1):  # until the next trial
            taken = rate(pace, constant(slower, more), 1)
        assert rate(pace, constant(slower, more)) > 0.95 * max(1.0, gain)
    assert taken > 0


def test_a_machine_of_which_nothing_is_known_goes_on_to_try() -> None:
    pace = Pace()
    assert any(pace.next() for _ in range(20))
    assert any(pace.next() for _ in range(20))


class Guessing:
    """Counts how often it is asked, and how often it was told that it will not be."""

    def __init__(self) -> None:
        self.asked = 0
        self.paused = 0

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        self.asked += 1
        return [Proposal([1], []) for _ in running]

    def pause(self) -> None:
        self.paused += 1


def decoding(name: str) -> Request:
    message = AddRequest(name, [1, 2, 3], 10_000, Sampling())
    request = Request.from_message(message, arrival=0, now=0.0, max_model_len=100_000)
    request.computed = 2
    return request


@pytest.mark.parametrize(("tokens", "often"), [(1, False), (3, True)])
def test_steps_are_timed_from_call_to_call(tokens: int, often: bool) -> None:
    """Guesses double what a step takes, in Python between two calls."""
    inner, now = Guessing(), 0.0
    proposer = PacedProposer(inner, inner.pause, lambda: now)
    request = decoding("a")
    for _ in range(1000):
        guesses = proposer.propose([request], lambda _, wanted: wanted)[0].tokens
        now += 2.0 if guesses else 1.0
        came = tokens if guesses else 1
        request.tokens += [0] * came
        request.computed += came
    assert (inner.asked > 900) if often else (inner.asked < 100)
    assert inner.paused > 2


def test_prompts_and_idle_hours_are_no_measurement() -> None:
    clock = count()
    inner = Guessing()
    proposer = PacedProposer(inner, clock=lambda: float(next(clock)) ** 2)
    for number in range(300):
        request = decoding(str(number))
        assert len(proposer.propose([request], lambda _, wanted: wanted)) == 1
        assert proposer.propose([], lambda _, wanted: wanted) == []
    assert inner.asked > 100


def test_batches_of_other_sizes_are_judged_by_themselves() -> None:
    """Guessing pays for one stream and loses for eight."""
    inner, now = Guessing(), 0.0
    proposer = PacedProposer(inner, inner.pause, lambda: now)
    asked = {}
    for size in (1, 8, 1, 8):
        requests = [decoding(str(number)) for number in range(size)]
        before = inner.asked
        for _ in range(1000):
            guessed = bool(proposer.propose(requests, lambda _, wanted: wanted)[0].tokens)
            now += (1.1 if size == 1 else 3.0) if guessed else 1.0
            for request in requests:
                request.tokens += [0] * (1 + guessed)
                request.computed += 1 + guessed
        asked[size] = inner.asked - before
    assert asked[1] > 900
    assert asked[8] < 100
