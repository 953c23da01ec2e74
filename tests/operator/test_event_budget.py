"""What flaps is told of for a while, and then now and then."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.cluster.event_budget import BURST, REFILL, EventBudget


def test_a_burst_is_told_and_then_one_every_five_minutes() -> None:
    budget = EventBudget()
    assert sum(budget.spend("a", 0.0) for _ in range(100)) == BURST
    assert not budget.spend("a", REFILL - 1)
    assert budget.spend("a", REFILL)
    assert not budget.spend("a", REFILL)


def test_one_that_flaps_takes_nothing_from_another() -> None:
    budget = EventBudget()
    for _ in range(100):
        budget.spend("a", 0.0)
    assert budget.spend("b", 0.0)


@given(st.lists(st.floats(0, 100), max_size=300))
def test_no_pattern_gets_more_than_the_burst_and_the_refill(gaps: list[float]) -> None:
    budget, now, told = EventBudget(), 0.0, 0
    for gap in gaps:
        now += gap
        told += budget.spend("a", now)
    assert told <= BURST + now / REFILL
