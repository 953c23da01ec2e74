"""Credentials that end: renewed before, kept while they can be, asked for once."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.fetch.renewal import MARGIN, Lent, Renewed, moment
from penstock_worker.fetch.retry import Transient

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Lender:
    """Lends numbers for an hour, unless it is away."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lent: list[int] = []
        self.away = False

    def __call__(self) -> Lent[int]:
        if self.away:
            raise Transient("away")
        self.lent.append(len(self.lent))
        return Lent(self.lent[-1], self.clock.now + HOUR)


@given(st.lists(st.floats(0, 7200), max_size=50))
def test_nothing_is_used_in_its_last_minutes_and_nothing_renewed_before(
    waits: list[float],
) -> None:
    clock = Clock()
    lender = Lender(clock)
    renewed = Renewed(lender, clock=clock)
    since = clock.now
    for wait in waits:
        before = len(lender.lent)
        renewed.current()
        if len(lender.lent) > before:
            assert before == 0 or clock.now - since >= HOUR - MARGIN
            since = clock.now
        assert clock.now < since + HOUR - MARGIN
        clock.now += timedelta(seconds=wait)


def test_while_the_lender_is_away_what_is_valid_still_serves() -> None:
    clock = Clock()
    lender = Lender(clock)
    renewed = Renewed(lender, clock=clock)
    assert renewed.current() == 0
    lender.away = True
    clock.now += HOUR - MARGIN / 2
    assert renewed.current() == 0
    clock.now += MARGIN
    with pytest.raises(Transient):
        renewed.current()
    lender.away = False
    assert renewed.current() == 1


def test_threads_that_are_refused_together_ask_once() -> None:
    clock = Clock()
    lender = Lender(clock)
    renewed = Renewed(lender, clock=clock)
    refused = renewed.current()
    threads = [threading.Thread(target=renewed.other_than, args=(refused,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert renewed.current() == 1
    assert lender.lent == [0, 1]


def test_what_does_not_end_is_asked_for_once() -> None:
    clock = Clock()
    lent = iter([Lent("key"), Lent("another")])
    renewed = Renewed(lambda: next(lent), clock=clock)
    for _ in range(3):
        assert renewed.current() == "key"
        clock.now += 1000 * HOUR


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T01:00:00+01:00"]
)
def test_times_are_compared_in_utc(text: str) -> None:
    assert moment(text) == START
