"""Cron expressions against a count of minutes, and in words when they are none."""

import re
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.cron import Cron

MINUTE = timedelta(minutes=1)
WEEK = [datetime(2026, 2, 23) + minute * MINUTE for minute in range(10 * 24 * 60)]
"""Ten days over the end of a February, minute by minute."""


def items(low: int, high: int) -> st.SearchStrategy[str]:
    """Draw an item of a field: a number, a range, a step."""
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    steps = st.integers(1, 9)
    return st.one_of(
        st.integers(low, high).map(str),
        span.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.tuples(span, steps).map(lambda one: f"{one[0][0]}-{one[0][1]}/{one[1]}"),
        steps.map(lambda step: f"*/{step}"),
        st.just("*"),
    )


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(items(low, high), min_size=1, max_size=3).map(",".join)


expressions = st.tuples(
    fields(0, 59), fields(0, 23), fields(1, 28), st.just("*"), fields(0, 7)
).map(" ".join)


@given(expressions, st.sampled_from(WEEK), st.integers(0, 59))
def test_the_latest_and_the_next_minute_are_those_that_match(
    text: str, wall: datetime, second: int
) -> None:
    cron, wall = Cron.parse(text), wall.replace(second=second)
    latest, following = cron.latest(wall), cron.following(wall)
    assert latest <= wall < following
    assert cron.matches(latest)
    assert cron.matches(following)
    assert not any(cron.matches(minute) for minute in WEEK if latest < minute < following)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 0 31 * *", ["2026-01-31", "2026-03-31", "2026-05-31"]),
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 30 4,6 *", ["2026-04-30", "2026-06-30", "2027-04-30"]),
        ("0 0 1 * mon", ["2026-01-05", "2026-01-12", "2026-01-19"]),  # either day
        ("0 0 */2 * mon", ["2026-01-05", "2026-01-19", "2026-02-09"]),  # both: one begins with *
        ("0 0 13 jan-feb FRI", ["2026-01-02", "2026-01-09", "2026-01-13"]),
        ("0 0 * * 7", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("0 0 * * 5-7", ["2026-01-02", "2026-01-03", "2026-01-04"]),
    ],
)
def test_days_are_those_of_crontab(text: str, days: list[str]) -> None:
    cron, wall, found = Cron.parse(text), datetime(2026, 1, 1), []
    for _ in days:
        wall = cron.following(wall)
        found.append(f"{wall:%Y-%m-%d}")
    assert found == days


def test_a_leap_day_is_found_over_a_century_without_one() -> None:
    cron = Cron.parse("0 0 29 2 *")
    assert cron.following(datetime(2096, 2, 29)) == datetime(2104, 2, 29)
    assert cron.latest(datetime(2104, 2, 28)) == datetime(2096, 2, 29)


def test_a_leap_day_on_one_weekday_is_found_over_forty_years() -> None:
    cron = Cron.parse("0 0 29 2 */7")  # both, as one begins with *
    assert cron.following(datetime(2026, 1, 1)) == datetime(2032, 2, 29)
    assert cron.following(datetime(2088, 3, 1)) == datetime(2128, 2, 29)
    assert cron.latest(datetime(2128, 2, 28)) == datetime(2088, 2, 29)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 fields"),
        ("0 8 * *", "has 4 fields"),
        ("@daily", "has 1 fields"),
        ("60 * * * *", "minute '60': '60' is not one of 0 to 59"),
        ("0 8 * * mo", "'mo' is not one of 0 to 7, sun to sat"),
        ("0 8 L * *", "'L' is not one of 1 to 31"),
        ("0 8 -1 * *", "day of month"),
        ("0 17-8 * * *", "'17-8' ends before it begins"),
        ("*/0 * * * *", "a step is a number from 1"),
        ("*/ * * * *", "a step is a number from 1"),
        ("0 8,, * * *", "hour '8,,'"),
        ("٣ 8 * * *", "minute"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6 *", "never comes"),
    ],
)
def test_what_is_no_expression_is_told_by_its_field(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Cron.parse(text)


def test_a_day_that_no_month_has_may_stand_beside_a_weekday() -> None:
    assert Cron.parse("0 0 31 2 mon").following(datetime(2026, 2, 1)) == datetime(2026, 2, 2)
