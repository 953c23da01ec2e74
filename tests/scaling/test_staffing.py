"""Erlang's formula against textbook values, and the staffing that follows from it."""

from math import exp, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.scaling.staffing import erlang_c, servers_for, share_waiting_longer


def by_definition(servers: int, load: float) -> float:
    """Return Erlang C as textbooks write it."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 1.0), (5, 4.0), (20, 18.5)])
def test_erlang_c_is_the_textbooks(servers: int, load: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(by_definition(servers, load))


def test_one_server_waits_as_mm1_does() -> None:
    # P(W > t) = ρ·exp(−(1 − ρ)·t), t in service times.
    assert share_waiting_longer(1, 0.8, 3.0) == pytest.approx(0.8 * exp(-0.2 * 3))


@given(st.floats(0, 200), st.floats(0, 20), st.floats(0.001, 0.5), st.floats(0.2, 8))
def test_the_fewest_servers_that_do_and_no_fewer(
    load: float, patience: float, late: float, burst: float
) -> None:
    found = servers_for(load, patience, late, arrival_cv2=burst)
    assert share_waiting_longer(found, load, patience, burst) <= late
    if found > 0:
        assert share_waiting_longer(found - 1, load, patience, burst) > late


def test_burstier_traffic_needs_more_servers() -> None:
    assert servers_for(10, 1, 0.05, arrival_cv2=6) > servers_for(10, 1, 0.05, arrival_cv2=1)
