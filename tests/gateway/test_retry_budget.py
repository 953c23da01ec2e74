"""Retries cover an accident and do not feed a storm."""

from penstock_gateway.routing.retry_budget import SAVINGS, RetryBudget


def test_a_gateway_starts_with_savings_for_an_accident() -> None:
    budget = RetryBudget()
    assert [budget.spend() for _ in range(int(SAVINGS) + 2)] == [True] * int(SAVINGS) + [False] * 2


def test_in_a_long_outage_a_fifth_of_the_requests_is_retried() -> None:
    budget = RetryBudget()
    retried = 0
    for _ in range(10_000):
        budget.earn()
        retried += budget.spend()
    assert 2000 <= retried <= 2000 + SAVINGS


def test_savings_are_bounded() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == SAVINGS
