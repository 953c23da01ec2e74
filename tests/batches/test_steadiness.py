"""When a clock is believed."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.batches.steadiness import PATIENCE, TOLERANCE, Steadiness


def after(seconds: float, ahead: float = 0.0) -> Steadiness:
    """Return what is known after looks every minute, the last of which found a jump."""
    known = Steadiness.begun(1e9, 50.0)
    for second in range(0, int(seconds), 60):
        known = known.seen(1e9 + second, 50.0 + second)
    return known.seen(1e9 + seconds + ahead, 50.0 + seconds)


def test_a_clock_is_believed_when_it_has_gone_on_evenly_for_an_hour() -> None:
    assert not Steadiness.begun(1e9, 50.0).believed
    assert not after(PATIENCE - 1).believed
    assert after(PATIENCE).believed


def test_a_clock_that_is_put_forward_is_not_believed_for_an_hour() -> None:
    jumped = after(2 * PATIENCE, ahead=30 * 86400.0)
    assert not jumped.believed
    wall, monotonic = jumped.wall, jumped.monotonic
    assert not jumped.seen(wall + PATIENCE - 1, monotonic + PATIENCE - 1).believed
    assert jumped.seen(wall + PATIENCE, monotonic + PATIENCE).believed


def test_one_that_was_put_right_meanwhile_has_an_hour_more() -> None:
    jumped = after(2 * PATIENCE, ahead=86400.0)
    right = jumped.seen(jumped.wall - 86400 + 60, jumped.monotonic + 60)
    assert not right.believed
    assert right.seen(right.wall + PATIENCE, right.monotonic + PATIENCE).believed


@given(st.floats(-1e6, TOLERANCE - 1))
def test_what_is_less_than_a_jump_changes_nothing(ahead: float) -> None:
    assert after(2 * PATIENCE, ahead).believed
