"""When a refused request is asked to come again."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.admission.departure_rate import LATEST, SOONEST, DepartureRate


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=50), st.integers(0, 10_000))
def test_a_retry_is_asked_for_between_a_second_and_half_a_minute(
    gaps: list[float], ahead: int
) -> None:
    rate, now = DepartureRate(), 0.0
    for gap in gaps:
        rate, now = rate.ended(now), now + gap
    assert SOONEST <= rate.wait(ahead) <= LATEST


def test_the_wait_is_what_the_queue_needs_at_the_present_rate() -> None:
    rate = DepartureRate()
    for n in range(20):
        rate = rate.ended(n * 0.5)
    assert abs(rate.wait(10) - 5.0) < 1e-6
