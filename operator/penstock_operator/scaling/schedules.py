"""Replicas by the clock: the bounds of pools as their schedules have them at one moment.

A schedule is open from each of its starts to the first of its ends after it, in the minutes that
clocks on a wall of its zone show. When they are put forward, what is skipped has passed; when they
are put back, what comes twice counts once, and the clock stands until it is past that.

Its minimum holds a lead earlier than that, so that its replicas are ready when it opens; its
maximum does not, because until then they may be needed. What has begun to start goes on: the lead
is a guess before the first worker tells what it takes, and may turn out to be shorter.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from penstock_contract.cron import Cron
from penstock_operator.scaling.spec import Phase, PoolBounds, ScalingSpec, Schedule, Turn

MINUTE = timedelta(minutes=1)


def by_the_clock(
    spec: ScalingSpec, now: float, before: Mapping[str, float] | None = None
) -> ScalingSpec:
    """Return what a user asked for with the bounds that hold at one moment.

    Of the schedules that are open, the highest minimum and the lowest maximum hold; where they
    cross, the maximum.

    Args:
        spec: with the bounds that hold when no schedule is open.
        now: seconds since 1970, by the clock that people go by.
        before: what `started` gave at the last decision.
    """
    moment = datetime.fromtimestamp(now, UTC)
    pools = tuple(_narrowed(bounds, spec, moment, before or {}) for bounds in spec.pools)
    return replace(spec, pools=pools)


def started(spec: ScalingSpec) -> dict[str, float]:
    """Return how long before its start each schedule began that starts replicas now."""
    return {
        _key(bounds, turn.name): turn.ahead
        for bounds in spec.pools
        for turn in bounds.turns
        if turn.phase is Phase.STARTING
    }


def _key(bounds: PoolBounds, schedule: str) -> str:
    return f"{bounds.name}/{schedule}"


def _narrowed(
    bounds: PoolBounds, spec: ScalingSpec, moment: datetime, before: Mapping[str, float]
) -> PoolBounds:
    if not bounds.schedules:
        return bounds
    turns = []
    for schedule in bounds.schedules:
        ahead = _ahead(schedule, bounds, spec)
        begun = before.get(_key(bounds, schedule.name), 0.0)
        turns.append(turn(schedule, max(ahead, begun), moment))
    least = [bounds.minimum, *(t.minimum or 0 for t in turns if t.phase is not Phase.CLOSED)]
    most = [bounds.maximum, *(t.maximum for t in turns if t.maximum and t.phase is Phase.OPEN)]
    maximum = min(most)
    return replace(bounds, minimum=min(max(least), maximum), maximum=maximum, turns=tuple(turns))


def _ahead(schedule: Schedule, bounds: PoolBounds, spec: ScalingSpec) -> float:
    """Return how long before its start all that a schedule may lack have to be asked for.

    They are asked for at once; a lead knows of those of one step only that they come one by one.
    """
    lacking = (schedule.minimum or 0) - bounds.minimum
    return spec.lead + bounds.apart * max(0, lacking - spec.max_up)


def turn(schedule: Schedule, ahead: float, moment: datetime) -> Turn:
    """Return what a schedule does at one moment.

    Args:
        schedule: of a pool.
        ahead: seconds from a decision until its replicas serve.
        moment: with any time zone.
    """
    start, end, zone = Cron.parse(schedule.start), Cron.parse(schedule.end), ZoneInfo(schedule.zone)
    wall = _wall(moment, zone)
    phase, change = Phase.CLOSED, start.following(wall)
    if _is_open(start, end, wall):
        phase, change = Phase.OPEN, end.following(wall)
    elif schedule.minimum and _opens_within(ahead, start, end, zone, moment):
        phase = Phase.STARTING
    until = f"{change:%a %d %b %H:%M} {schedule.zone}"
    return Turn(schedule.name, phase, until, ahead, schedule.minimum, schedule.maximum)


def _is_open(start: Cron, end: Cron, wall: datetime) -> bool:
    """Whoever ends one turn and begins the next at the same minute goes on."""
    return start.latest(wall) >= end.latest(wall)


def _opens_within(ahead: float, start: Cron, end: Cron, zone: ZoneInfo, moment: datetime) -> bool:
    """Whether it opens at one of the minutes that will have begun by then.

    Minute by minute, since clocks may be put forward or back until then; and by how it is at last,
    since a clock that skips an hour may skip its start.
    """
    first = moment.replace(second=0, microsecond=0)
    minutes = int((moment + timedelta(seconds=ahead) - first) / MINUTE)
    walls = [_wall(first + later * MINUTE, zone) for later in range(1, minutes + 1)]
    return any(map(start.matches, walls)) or (bool(walls) and _is_open(start, end, walls[-1]))


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return the latest that a clock on the wall has shown."""
    while (shown := moment.astimezone(zone)).fold:
        moment -= MINUTE
    return shown.replace(tzinfo=None)
