"""Decode work as offered and as seen: the larger counts, over a minute."""

import random

import pytest

from penstock_operator.scaling.decoding import Decoding
from penstock_operator.scaling.signal import ABSENT, Signal


def fed(offered: list[float], seen: list[float]) -> Decoding:
    found = Decoding()
    for one, other in zip(offered, seen, strict=True):
        found = found.after(one, Signal(other), 5.0)
    return found


def test_answers_that_are_longer_than_those_before_count_as_they_are_seen() -> None:
    assert fed([2.0] * 100, [5.0] * 100).beyond == pytest.approx(3.0)


def test_what_is_offered_and_not_yet_seen_counts_as_offered() -> None:
    assert fed([5.0] * 100, [2.0] * 100).beyond == 0.0


def test_two_that_scatter_around_the_same_are_not_taken_for_more() -> None:
    draw = random.Random(3)
    both = [[draw.expovariate(0.5) for _ in range(2000)] for _ in range(2)]
    extra, found = [], Decoding()
    for offered, seen in zip(*both, strict=True):
        found = found.after(offered, Signal(seen), 5.0)
        extra.append(found.beyond)
    assert sum(extra) / len(extra) < 0.3
    assert sum(max(pair) for pair in zip(*both, strict=True)) / 2000 > 2.9, "the larger of two"


def test_a_signal_that_is_missing_changes_nothing() -> None:
    known = fed([2.0] * 10, [5.0] * 10)
    assert known.after(2.0, ABSENT, 5.0) == known
    assert known.after(2.0, Signal(0.0, age=1e6), 5.0) == known
