"""The autoscaler's memory as JSON, so that a restart forgets nothing. Pure.

Scrapes are not kept: they are minutes old by then, and the first new ones replace them.
"""

import json
from dataclasses import asdict, replace
from typing import Any

import msgspec

from penstock_operator.autoscaling.evaluation import Memory
from penstock_operator.autoscaling.scrape import Scrapes
from penstock_operator.scaling.state import PoolState, ScalingState

OLDEST = 3600.0
"""Seconds after which demand has to be learned anew; what a request is worth stays known."""

EXACT = 1e6
"""Numbers from here on are times, which seven digits would spoil."""
ERRORS = 40
"""Errors that are kept of each level: enough for quantiles, few enough for an annotation."""
PENDING = 8
"""Levels that wait to be judged."""


def dump(memory: Memory) -> str:
    """Return a memory as JSON of a few KiB."""
    pools = {name: _thinned(pool) for name, pool in memory.state.pools.items()}
    kept = replace(memory, state=replace(memory.state, pools=pools), scrapes=Scrapes())
    return json.dumps(_rounded(asdict(kept)), separators=(",", ":"))


def _thinned(pool: PoolState) -> PoolState:
    """Return a state with some of its errors, evenly over time."""
    levels = tuple(
        replace(level, errors=_thin(level.errors, ERRORS), pending=_thin(level.pending, PENDING))
        for level in pool.forecast.levels
    )
    return replace(pool, wanted=(), forecast=replace(pool.forecast, levels=levels))


def _thin(series: tuple[tuple[float, float], ...], most: int) -> tuple[tuple[float, float], ...]:
    step = -(-len(series) // most) or 1
    return tuple((round(time), round(value, 3)) for time, value in series[::step])


def _rounded(value: Any) -> Any:
    """Return a value with its numbers to seven digits, and its times as they are."""
    if isinstance(value, dict):
        return {key: _rounded(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(found) for found in value]
    if isinstance(value, float) and abs(value) < EXACT:
        return float(f"{value:.7g}")
    return value


def load(text: str, now: float) -> Memory:
    """Return what was dumped, or a new memory when it is damaged, old or from the future.

    A restart begins its first window anew, so it never shrinks anything by itself.
    """
    try:
        memory = msgspec.convert(json.loads(text), Memory)
    except (ValueError, msgspec.ValidationError):
        return Memory()
    decided = memory.state.decided
    if decided is None or not 0 <= now - decided <= OLDEST:
        learned = replace(memory.learned, time=None)
        return replace(Memory(), learned=learned, load=memory.load)
    pools = {
        name: replace(pool, first_seen=None, wanted=()) for name, pool in memory.state.pools.items()
    }
    state: ScalingState = replace(memory.state, pools=pools, idle_since=None)
    return replace(memory, state=state)
