"""The level follows demand, and head-room comes from how wrong it has been."""

import random

import pytest

from penstock_operator.scaling.forecast import ENOUGH, SMOOTHINGS, STAY, Forecast

LEAD = 75.0


def fed(values: list[float], interval: float = 5.0, patience: float = 0.0) -> Forecast:
    """Return the forecast that has seen these demands."""
    forecast = Forecast()
    for index, value in enumerate(values):
        forecast = forecast.after(value, index * interval, LEAD, patience)
    return forecast


def test_steady_demand_needs_no_headroom() -> None:
    forecast = fed([4.0] * 200)
    assert forecast.level == 4.0
    assert forecast.bound() == 4.0
    assert forecast.mean == 4.0


def test_scatter_becomes_headroom() -> None:
    draw = random.Random(1)
    calm = fed([4 + draw.uniform(-0.2, 0.2) for _ in range(400)])
    wild = fed([4 + draw.uniform(-2, 2) for _ in range(400)])
    assert calm.level < calm.bound() < 4.5
    assert wild.bound() > 5


def test_what_may_wait_needs_no_headroom() -> None:
    bursts = [2.0, 6.0] * 200
    hurried, patient = fed(bursts), fed(bursts, patience=30.0)
    assert patient.bound() < 4.8 < 5.5 < hurried.bound()


def test_growth_is_learned_from_being_too_low() -> None:
    forecast = fed([1 + 0.02 * step for step in range(300)])
    assert forecast.mean > forecast.level


def test_before_anything_is_known_a_prior_gives_headroom() -> None:
    forecast = fed([4.0] * (ENOUGH // 2))
    assert not any(level.errors for level in forecast.levels)
    assert forecast.bound() == 6.0


def smoothing(forecast: Forecast) -> float:
    return forecast.levels[forecast.followed].smoothing


def test_the_level_that_needs_the_least_headroom_is_followed() -> None:
    draw = random.Random(2)
    ramp = fed([1 + 0.05 * step for step in range(600)])
    bursts = fed([draw.choice((1.0, 9.0)) for _ in range(1200)])
    assert smoothing(ramp) == min(SMOOTHINGS)
    assert smoothing(bursts) >= 120
    errors = [level.error for level in bursts.levels]
    assert errors[bursts.followed] <= min(errors) + STAY


def test_a_steady_forecast_needs_no_headroom() -> None:
    assert Forecast.steady(3.0).bound(4.0) == Forecast.steady(3.0).mean == 3.0


def test_old_errors_are_forgotten() -> None:
    forecast = fed([4.0, 20.0] * 100 + [4.0] * 2000)
    assert forecast.bound() == pytest.approx(4.0)
