"""What counts as growth of a process: a trend, and not the noise around it."""

import os
import random

import pytest
from growth import MOST_DESCRIPTORS, MOST_KIB, Drift, Point, descriptors, drift, slope


def noisy(per_second: float, seconds: int = 120, spikes: float = 0.2) -> list[Point]:
    """Return a series with a trend, some noise, and a spike now and then."""
    draw = random.Random(1)
    return [
        (when / 2, 1000 + per_second * when / 2 + draw.gauss(0, 5) + 500 * (draw.random() < spikes))
        for when in range(2 * seconds)
    ]


@pytest.mark.parametrize("per_second", [0.0, 1.0, -2.0, 50.0])
def test_spikes_do_not_bend_a_trend(per_second: float) -> None:
    assert slope(noisy(per_second)) == pytest.approx(per_second, abs=0.3)


def test_what_a_process_takes_while_it_warms_up_is_no_growth() -> None:
    warming = [(when / 2, min(when, 60) * 1000.0) for when in range(240)]
    assert drift(warming) == 0
    assert drift([(when / 2, when * 1000.0) for when in range(240)]) == pytest.approx(143_400, 0.01)


def test_nothing_is_said_of_what_was_not_seen() -> None:
    assert drift([]) == 0
    assert drift([(1.0, 5.0)]) == 0


def test_a_leak_of_either_kind_is_too_much() -> None:
    assert not Drift(MOST_KIB, MOST_DESCRIPTORS).too_much
    assert Drift(MOST_KIB + 1, 0).too_much
    assert Drift(0, MOST_DESCRIPTORS + 1).too_much


def test_open_descriptors_are_counted() -> None:
    before = descriptors(os.getpid())
    ends = os.pipe()
    assert descriptors(os.getpid()) == before + 2
    for end in ends:
        os.close(end)
