"""Cron expressions: minutes of a wall clock, by five fields. Pure.

They are asked which of their minutes came last, and which comes next, of times without a zone: what
a clock on the wall shows. Nothing runs here at a minute, so the questions that a daemon has when
clocks change (is a job of 02:30 run twice, or not at all?) are its caller's.

The fields are those of `man 5 crontab`: minute, hour, day of month, month, day of week; numbers,
names, lists, ranges and steps. As there, a day fits when either of the two day fields does, if
both are given, and both must if one begins with `*`.
"""

import calendar
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Self

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final[tuple[tuple[str, int, int, tuple[str, ...]], ...]] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_FORTY_YEARS = 40 * 366
"""Days between two 29ths of February on one weekday at most: from 2088 to 2128, for a Sunday."""
_ANY_LEAP_YEAR = 2000


@dataclass(frozen=True)
class Cron:
    """Some minutes of a wall clock."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """One of the day fields is enough."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the minutes that an expression names.

        Raises:
            ValueError: it is none, or names a day that never comes.
        """
        parts = text.split()
        if len(parts) != len(_FIELDS):
            wanted = "minute, hour, day of month, month, day of week, like `30 7 * * mon-fri`"
            raise ValueError(f"{text!r} has {len(parts)} fields of a cron expression's 5: {wanted}")
        found = [_field(part, *field) for part, field in zip(parts, _FIELDS, strict=True)]
        minutes, hours, days, months, weekdays = found
        either = not (parts[2].startswith("*") or parts[4].startswith("*"))
        longest = max(calendar.monthrange(_ANY_LEAP_YEAR, month)[1] for month in months)
        if min(days) > longest and not either:
            raise ValueError(f"{text!r} never comes: none of its months has a day {min(days)}")
        return cls(
            tuple(sorted(minutes)),
            tuple(sorted(hours)),
            frozenset(days),
            frozenset(months),
            frozenset(day % 7 for day in weekdays),
            either,
        )

    def matches(self, wall: datetime) -> bool:
        """Return whether it names the minute of a time."""
        return wall.minute in self.minutes and wall.hour in self.hours and self._on(wall.date())

    def latest(self, wall: datetime) -> datetime:
        """Return its last minute that has begun at a time."""
        minute = wall.replace(second=0, microsecond=0)
        times = [(hour, minute) for hour in self.hours for minute in self.minutes]
        for back in range(_FORTY_YEARS + 1):
            day = wall.date() - timedelta(days=back)
            if self._on(day):
                for time in reversed(times):
                    if (found := _at(day, *time)) <= minute:
                        return found
        raise AssertionError("every expression that was parsed comes")

    def following(self, wall: datetime) -> datetime:
        """Return its first minute that begins after a time."""
        times = [(hour, minute) for hour in self.hours for minute in self.minutes]
        for ahead in range(_FORTY_YEARS + 1):
            day = wall.date() + timedelta(days=ahead)
            if self._on(day):
                for time in times:
                    if (found := _at(day, *time)) > wall:
                        return found
        raise AssertionError("every expression that was parsed comes")

    def _on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either_day else of_month and of_week


def _at(day: date, hour: int, minute: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute)


def _field(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """Return the numbers that a field lists."""

    def number(part: str) -> int:
        if part.lower() in names:
            return low + names.index(part.lower())
        value = int(part) if part.isascii() and part.isdecimal() else -1
        if not low <= value <= high:
            known = f"{low} to {high}" + (f", {names[0]} to {names[-1]}" if names else "")
            raise ValueError(f"{name} {text!r}: {part!r} is not one of {known}")
        return value

    found: set[int] = set()
    for item in text.split(","):
        span, slash, width = item.partition("/")
        step = int(width) if width.isascii() and width.isdecimal() else 0
        if slash and not step:
            raise ValueError(f"{name} {text!r}: a step is a number from 1, like */15")
        first, dash, last = span.partition("-")
        if span == "*":
            start, end = low, high
        else:
            start = number(first)
            end = number(last) if dash else high if slash else start
        if end < start:
            raise ValueError(f"{name} {text!r}: {item!r} ends before it begins")
        found.update(range(start, end + 1, step or 1))
    return found
