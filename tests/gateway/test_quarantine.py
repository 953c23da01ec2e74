"""Requests that seem to kill their workers."""

from penstock_gateway.routing.quarantine import CAPACITY, PERIOD, Quarantine


def test_two_workers_in_a_row_are_the_most_that_a_request_may_cost() -> None:
    quarantine = Quarantine()
    assert not quarantine.suspect(1, "a", 0)
    assert not quarantine.holds(1, 0)
    assert quarantine.suspect(1, "b", 1)
    assert quarantine.holds(1, 2)
    assert not quarantine.holds(2, 2)


def test_a_worker_that_breaks_twice_is_one() -> None:
    quarantine = Quarantine()
    assert not quarantine.suspect(1, "a", 0)
    assert not quarantine.suspect(1, "a", 1)


def test_who_gets_further_is_cleared_but_not_out_of_quarantine() -> None:
    quarantine = Quarantine()
    quarantine.suspect(1, "a", 0)
    quarantine.clear(1)
    assert not quarantine
    assert not quarantine.suspect(1, "b", 1)
    assert quarantine.suspect(1, "c", 2)
    quarantine.clear(1)
    assert quarantine.holds(1, 3)


def test_a_worker_that_did_not_die_does_not_count() -> None:
    quarantine = Quarantine()
    quarantine.suspect(1, "a", 0)
    quarantine.suspect(1, "b", 0)
    quarantine.absolve("a")
    assert not quarantine.holds(1, 1)
    quarantine.absolve("b")
    assert not quarantine


def test_quarantine_ends() -> None:
    quarantine = Quarantine()
    quarantine.suspect(1, "a", 0)
    quarantine.suspect(1, "b", 0)
    assert not quarantine.holds(1, PERIOD + 1)
    assert not quarantine.suspect(1, "c", PERIOD + 1)


def test_memory_is_bounded() -> None:
    quarantine = Quarantine()
    for request in range(CAPACITY + 1):
        quarantine.suspect(request, "a", 0)
        quarantine.suspect(request, "b", 0)
    assert not quarantine.holds(0, 0)
    assert quarantine.holds(CAPACITY, 0)
