"""Makes one status of those of several processes. Pure."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

from penstock_gateway.status.collect import SHOWN
from penstock_gateway.status.snapshot import (
    DecisionRow,
    ModelRow,
    PoolRow,
    QueueRow,
    Status,
    WaitRow,
    WorkerRow,
)

Row = TypeVar("Row")


def merged(statuses: Sequence[Status], silent: int = 0) -> Status:
    """Return what several processes have together.

    Args:
        statuses: at least one; the first one's view of the fleet is told.
        silent: processes that did not answer.
    """
    decisions = sorted((d for s in statuses for d in s.decisions), key=lambda d: d.seconds_ago)
    first = statuses[0]
    models = _joined((s.models for s in statuses), lambda row: row.name, _models)
    return replace(
        first,
        silent=silent,
        models=tuple(replace(m, prefix_hits=_hits(m.name, decisions)) for m in models),
        pools=_joined(
            (s.pools for s in statuses), lambda r: (r.deployment, r.name, r.role), _pools
        ),
        queues=_joined((s.queues for s in statuses), lambda r: (r.model, r.share), _queues),
        waits=_joined((s.waits for s in statuses), lambda r: (r.model, r.workers), _waits),
        workers=_joined((s.workers for s in statuses), lambda row: row.id, _workers),
        decisions=tuple(decisions[:SHOWN]),
    )


def _joined(
    parts: Iterable[Iterable[Row]], key: Callable[[Row], Hashable], join: Callable[[Row, Row], Row]
) -> tuple[Row, ...]:
    found: dict[Hashable, list[Row]] = {}
    for part in parts:
        for row in part:
            found.setdefault(key(row), []).append(row)
    return tuple(reduce(join, rows) for rows in found.values())


def _hits(model: str, decisions: Iterable[DecisionRow]) -> float | None:
    own = [found for found in decisions if found.model == model]
    matched = sum(found.matched for found in own)
    total = matched + sum(found.uncached for found in own)
    return matched / total if total else None


def _models(one: ModelRow, other: ModelRow) -> ModelRow:
    in_flight, waiting = one.in_flight + other.in_flight, one.waiting + other.waiting
    return replace(one, in_flight=in_flight, waiting=waiting)


def _pools(one: PoolRow, other: PoolRow) -> PoolRow:
    return replace(one, in_flight=one.in_flight + other.in_flight)


def _queues(one: QueueRow, other: QueueRow) -> QueueRow:
    return replace(one, waiting=one.waiting + other.waiting)


def _waits(one: WaitRow, other: WaitRow) -> WaitRow:
    known = [row.seconds for row in (one, other) if row.seconds is not None]
    return replace(one, waiting=one.waiting + other.waiting, seconds=min(known, default=None))


def _workers(one: WorkerRow, other: WorkerRow) -> WorkerRow:
    return replace(
        one,
        in_flight=one.in_flight + other.in_flight,
        outstanding=one.outstanding + other.outstanding,
        requests=one.requests + other.requests,
        failures=one.failures + other.failures,
    )
