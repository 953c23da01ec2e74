"""Replicas by the clock: when schedules are open, how far ahead they start, and what they hold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observations import SPEC, seen

from penstock_contract.api import Role, ScalingPolicy
from penstock_operator.autoscaling.evaluation import Evaluation
from penstock_operator.autoscaling.explain import explain
from penstock_operator.autoscaling.record import Record, read, write
from penstock_operator.autoscaling.report import last_scale
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.schedules import by_the_clock, turn
from penstock_operator.scaling.signal import ABSENT, Signal
from penstock_operator.scaling.spec import Phase, PoolBounds, ScalingSpec, Schedule
from penstock_operator.scaling.state import ScalingState

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = Schedule("office", "0 8 * * mon-fri", "0 18 * * mon-fri", "Europe/Berlin", minimum=4)
LEAD = 90.0


def scheduled(*schedules: Schedule, minimum: int = 1, maximum: int = 40) -> ScalingSpec:
    pool = PoolBounds("default", Role.UNIFIED, minimum, maximum, schedules=schedules)
    return replace(SPEC, pools=(pool,), lead=LEAD)


def bounds(spec: ScalingSpec, when: datetime) -> tuple[int, int]:
    found = by_the_clock(spec, when.timestamp()).pools[0]
    return found.minimum, found.maximum


def phase(schedule: Schedule, when: datetime, lead: float = LEAD) -> Phase:
    return turn(schedule, lead, when).phase


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-03-02 07:58:29", Phase.CLOSED),
        ("2026-03-02 07:58:30", Phase.STARTING),
        ("2026-03-02 07:59:59", Phase.STARTING),
        ("2026-03-02 08:00:00", Phase.OPEN),
        ("2026-03-02 17:59:59", Phase.OPEN),
        ("2026-03-02 18:00:00", Phase.CLOSED),
        ("2026-03-07 12:00:00", Phase.CLOSED),  # Saturday
    ],
)
def test_replicas_of_office_hours_are_started_a_lead_ahead(when: str, expected: Phase) -> None:
    moment = datetime.fromisoformat(when).replace(tzinfo=BERLIN)
    assert phase(OFFICE, moment) is expected
    assert bounds(scheduled(OFFICE), moment) == (1 if expected is Phase.CLOSED else 4, 40)


def test_a_maximum_waits_for_its_start() -> None:
    both = replace(OFFICE, minimum=2, maximum=3)
    moment = datetime(2026, 3, 2, 7, 59, tzinfo=BERLIN)
    assert bounds(scheduled(both), moment) == (2, 40)
    assert bounds(scheduled(both), moment + timedelta(minutes=1)) == (2, 3)
    assert phase(replace(OFFICE, minimum=None, maximum=3), moment) is Phase.CLOSED


def test_of_open_schedules_the_narrowest_bounds_hold_and_a_maximum_before_a_minimum() -> None:
    noon = datetime(2026, 3, 2, 12, tzinfo=BERLIN)
    more, capped = replace(OFFICE, minimum=6), replace(OFFICE, minimum=None, maximum=8)
    assert bounds(scheduled(OFFICE, more, capped), noon) == (6, 8)
    assert bounds(scheduled(OFFICE, more, replace(capped, maximum=5)), noon) == (5, 5)
    assert bounds(scheduled(OFFICE, minimum=7), noon) == (7, 40)


@pytest.mark.parametrize("day", [datetime(2026, 3, 29), datetime(2026, 10, 25)])
def test_clocks_that_change_leave_office_hours_where_they_were(day: datetime) -> None:
    """On the days around both changes it opens when the clock on the wall says so, once a day."""
    daily = replace(OFFICE, start="0 8 * * *", end="0 18 * * *")
    for offset in (-1, 0, 1):
        start = (day + timedelta(days=offset)).replace(hour=8, tzinfo=BERLIN)
        assert phase(daily, start - timedelta(seconds=LEAD + 1)) is Phase.CLOSED
        assert phase(daily, start - timedelta(seconds=LEAD)) is Phase.STARTING
        assert phase(daily, start) is Phase.OPEN
        assert phase(daily, start.replace(hour=18)) is Phase.CLOSED


def opened(schedule: Schedule, begins: datetime, hours: int) -> list[tuple[str, str]]:
    """Return when it opens and closes, in UTC, looked at every minute."""
    turns: list[tuple[str, str]] = []
    began = ""
    for minute in range(hours * 60):
        moment = begins + timedelta(minutes=minute)
        is_open = phase(schedule, moment, lead=0.0) is Phase.OPEN
        if is_open and not began:
            began = f"{moment:%H:%M}"
        elif began and not is_open:
            turns.append((began, f"{moment:%H:%M}"))
            began = ""
    return turns


@pytest.mark.parametrize(
    ("start", "end", "forward", "back"),
    [
        # From 1:00 UTC on, 2:00 is 3:00 on 29 March, and 3:00 is 2:00 on 25 October.
        ("30 1 * * *", "30 3 * * *", [("00:30", "01:30")], [("23:30", "02:30")]),
        ("30 2 * * *", "30 4 * * *", [("01:00", "02:30")], [("00:30", "03:30")]),
        ("30 1 * * *", "30 2 * * *", [("00:30", "01:00")], [("23:30", "00:30")]),
        ("10 2 * * *", "40 2 * * *", [], [("00:10", "00:40")]),
        ("40 2 * * *", "10 2 * * *", [], []),
    ],
)
def test_an_hour_that_is_skipped_has_passed_and_one_that_comes_twice_counts_once(
    start: str, end: str, forward: list[tuple[str, str]], back: list[tuple[str, str]]
) -> None:
    night = replace(OFFICE, start=start, end=end)
    if start.startswith("40"):  # all day but half an hour, of which nothing is left
        assert phase(night, datetime(2026, 3, 29, 1, 0, tzinfo=UTC)) is Phase.OPEN
        return
    assert opened(night, datetime(2026, 3, 28, 23, tzinfo=UTC), 12) == forward
    assert opened(night, datetime(2026, 10, 24, 23, tzinfo=UTC), 12) == back


def test_a_start_that_a_clock_skips_is_started_for() -> None:
    night = replace(OFFICE, start="30 2 * * *", end="30 4 * * *")
    before = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)  # a minute before 2:00, which is 3:00
    assert phase(night, before) is Phase.STARTING


zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
)
MARCH, OCTOBER = datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)
moments = st.builds(
    lambda day, minute: day + timedelta(minutes=minute),
    st.sampled_from([datetime(2026, 1, 31, tzinfo=UTC), MARCH, OCTOBER]),
    st.integers(0, 8 * 60),
)
"""The end of a month, and the nights in which Europe's clocks change."""
fields = st.tuples(st.integers(0, 59), st.one_of(st.integers(0, 3), st.integers(0, 23)))


@given(fields, fields, zones, moments, st.integers(1, 90))
def test_whoever_will_be_open_is_started_for(
    start: tuple[int, int], end: tuple[int, int], zone: str, moment: datetime, lead: int
) -> None:
    """And whoever is started for opens within a lead, also over a change of clocks."""
    if start == end:
        return
    opens, closes = (f"{minute} {hour} * * *" for minute, hour in (start, end))
    daily = Schedule("daily", opens, closes, zone, minimum=2)
    ahead = [moment + timedelta(minutes=n) for n in range(lead + 1)]
    found = phase(daily, moment, lead=60.0 * lead)
    later = [phase(daily, when, lead=0.0) is Phase.OPEN for when in ahead]
    if found is Phase.OPEN:
        assert later[0]
    else:
        assert not later[0]
        assert any(later) == (found is Phase.STARTING)


def test_a_turn_that_begins_when_one_ends_goes_on() -> None:
    always = replace(OFFICE, start="0 * * * *", end="0 0 * * *")
    midnight = datetime(2026, 3, 3, tzinfo=BERLIN)
    for minute in (-1, 0, 1):
        assert phase(always, midnight + timedelta(minutes=minute)) is Phase.OPEN


def test_an_end_that_knows_no_saturday_leaves_friday_open() -> None:
    """What KEDA does, too: from each start to the first end after it."""
    night = replace(OFFICE, start="0 22 * * mon-fri", end="0 6 * * mon-fri")
    sunday = datetime(2026, 3, 8, 12, tzinfo=BERLIN)
    assert phase(night, sunday) is Phase.OPEN
    assert phase(replace(night, end="0 6 * * tue-sat"), sunday) is Phase.CLOSED


class Office:
    """A pool whose size follows decisions, every 15 s from a moment on."""

    def __init__(self, spec: ScalingSpec, begins: datetime, desired: int) -> None:
        self.spec, self.now, self.size = spec, begins.timestamp(), desired
        self.state = ScalingState()
        self.last: Decision | None = None
        self.record: Record | None = None

    def until(self, when: datetime, rate: float = 0.0, **changes: Signal) -> "Office":
        while self.now < when.timestamp():
            self.now += 15.0
            spec = by_the_clock(self.spec, self.now, self.state.started)
            view = seen(rate, self.size, **changes)
            before = self.state
            self.state, decisions = decide(before, view, spec, self.now)
            self.record = Record(self.now, before, view, spec, decisions)
            self.last = decisions.pools["default"]
            self.size = self.last.replicas
        return self


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-02 {clock}").replace(tzinfo=BERLIN)


@pytest.mark.parametrize("policy", [ScalingPolicy.LITTLES_LAW, ScalingPolicy.CONCURRENCY])
def test_an_idle_pool_is_awake_before_it_opens_and_sleeps_after(policy: ScalingPolicy) -> None:
    spec = replace(scheduled(OFFICE, minimum=0), idle=600.0, policy=policy)
    office = Office(spec, at("06:00"), 1).until(at("07:00"))
    assert office.size == 0
    assert office.until(at("07:58:15")).size == 0
    assert office.until(at("07:58:30")).size == 4, "four are ready at eight"
    assert office.last is not None
    assert office.last.reason.startswith("schedule office: at least 4; ")
    assert last_scale(office.last, "2026-03-02T06:58:30Z").reason == office.last.reason
    assert office.until(at("17:59")).size == 4, "nobody asks, and it is kept"
    assert office.until(at("18:05")).size == 0


def test_what_has_begun_to_start_goes_on_when_a_worker_tells_that_it_is_faster() -> None:
    """Before the first worker was there, its start was a guess, and mostly too long a one."""
    spec = replace(scheduled(OFFICE, minimum=0), idle=600.0, lead=150.0)
    office = Office(spec, at("06:00"), 1).until(at("07:57:30"))
    assert office.size == 4
    office.spec = replace(spec, lead=65.0)
    for clock in ("07:57:45", "07:58:30", "07:59:45", "08:00", "09:00"):
        assert office.until(at(clock)).size == 4, clock
    assert office.until(at("18:05")).size == 0
    assert office.state.started == {}


def test_what_has_begun_to_start_ends_with_its_schedule() -> None:
    spec = replace(scheduled(OFFICE, minimum=0), idle=600.0)
    office = Office(spec, at("06:00"), 1).until(at("07:58:30"))
    assert office.size == 4
    later = replace(OFFICE, start="0 9 * * mon-fri")
    office.spec = replace(scheduled(later, minimum=0), idle=600.0)
    assert office.until(at("07:58:45")).size == 0


def test_a_load_beyond_a_schedule_is_served_up_to_its_maximum() -> None:
    office = Office(scheduled(OFFICE), at("09:00"), 4).until(at("10:00"), rate=60.0)
    assert office.size > 4
    capped = scheduled(replace(OFFICE, minimum=2, maximum=5))
    office = Office(capped, at("09:00"), 4).until(at("10:00"), rate=60.0)
    assert office.size == 5
    assert office.last is not None
    assert office.last.guards[-1] == "schedule office: at most 5"


def test_whoever_knows_no_speed_yet_starts_by_the_clock_all_the_same() -> None:
    office = Office(scheduled(OFFICE, minimum=0), at("07:30"), 0)
    blind = replace(
        seen(0.0, 0), pools={"default": replace(seen(0, 0).pools["default"], curve=None)}
    )
    spec = by_the_clock(office.spec, at("07:59").timestamp())
    decision = decide(ScalingState(), blind, spec, 0.0)[1].pools["default"]
    assert decision.replicas == 4
    assert "schedule office: at least 4" in decision.reason


def test_broken_metrics_hinder_no_schedule() -> None:
    office = Office(scheduled(OFFICE), at("07:30"), 1)
    assert office.until(at("07:59"), arrivals=ABSENT, running=ABSENT).size == 4


def test_a_budget_holds_whatever_the_clock_says() -> None:
    spec = scheduled(OFFICE)
    spec = replace(spec, pools=(replace(spec.pools[0], gpus=2),), max_gpus=6)
    assert Office(spec, at("07:30"), 1).until(at("09:00")).size == 3


def test_a_pool_that_the_clock_wants_keeps_the_others_of_its_deployment_awake() -> None:
    spec = replace(scheduled(OFFICE, minimum=0), idle=60.0)
    decode = PoolBounds("decode", Role.UNIFIED, minimum=1, maximum=4)
    spec = replace(spec, pools=(*spec.pools, decode))
    state, sizes = ScalingState(), {"default": 0, "decode": 0}
    for second in range(0, 7200, 15):
        now = at("07:00").timestamp() + second
        views = {name: seen(0.0, size).pools["default"] for name, size in sizes.items()}
        state, found = decide(
            state, replace(seen(0.0, 0), pools=views), by_the_clock(spec, now), now
        )
        sizes = {name: decision.replicas for name, decision in found.pools.items()}
    assert sizes == {"default": 4, "decode": 1}


def test_a_record_with_schedules_is_decided_the_same_way_again_and_explained() -> None:
    office = Office(
        scheduled(OFFICE, replace(OFFICE, name="cap", minimum=None, maximum=9)), at("07:50"), 1
    )
    record = office.until(at("07:59")).record
    assert record is not None
    (back,) = read(write(record))
    assert back == record
    assert back.again() == record.decisions
    evaluation = Evaluation(record)
    decision = evaluation.record.decisions.pools["default"]
    text = explain("chat", record.seen, record.spec, decision)
    assert (
        "schedules            4 to 40 workers now" in " ".join(text.split("\n"))
        or "4 to 40" in text
    )
    assert "at least 4, from Mon 02 Mar 08:00 Europe/Berlin, started 90 s before" in text
    assert "at most 9, from Mon 02 Mar 08:00 Europe/Berlin" in text
    record = office.until(at("08:30")).record
    assert record is not None
    text = explain("chat", record.seen, record.spec, record.decisions.pools["default"])
    assert "at least 4, until Mon 02 Mar 18:00 Europe/Berlin" in text
