"""Adds up what several processes of a gateway count. Pure.

What is counted since the start never becomes less: a process that begins where another one ended
goes on from that one's counts, and one that has ended keeps its own until then.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from penstock_contract.fleet import WorkerLoad, total_loads
from penstock_contract.metrics import Kind
from penstock_contract.metrics import gateway as declared
from penstock_gateway.instruments import Series

Loads = Mapping[str, WorkerLoad]

LEVELS: Final = frozenset(
    metric.name
    for metric in (
        declared.GATEWAY_IN_FLIGHT,
        declared.GATEWAY_QUEUED,
        declared.GATEWAY_HELD,
        declared.GATEWAY_BODIES,
    )
)
"""Gauges that add up; of the others, which all processes see alike, the highest counts."""
_GAUGES: Final = frozenset(m.name for m in declared.GATEWAY if m.kind is Kind.GAUGE)


def counted(series: Series) -> Series:
    """Return what stays true when a process has ended."""
    return {name: found for name, found in series.items() if name not in _GAUGES}


def added(parts: Iterable[Series]) -> Series:
    """Return what several processes have together."""
    total: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for part in parts:
        for name, found in part.items():
            join = max if name in _GAUGES - LEVELS else float.__add__
            known = total.setdefault(name, {})
            for labels, values in found:
                key, values = tuple(labels), list(map(float, values))
                before = known.get(key)
                known[key] = values if before is None else list(map(join, before, values))
    return {
        name: [(list(labels), values) for labels, values in known.items()]
        for name, known in total.items()
    }


def loads(living: Iterable[Loads], ended: Iterable[Loads] = ()) -> dict[str, WorkerLoad]:
    """Return what all processes have on each worker; one that has ended has nothing on it."""
    total = total_loads(living)
    for part in ended:
        for worker in part.keys() & total.keys():
            total[worker] = since(total[worker], part[worker])
    return total


def since(load: WorkerLoad, earlier: WorkerLoad | None) -> WorkerLoad:
    """Return a load with the counts of a process that has ended."""
    if earlier is None:
        return load
    requests, failures = load.requests + earlier.requests, load.failures + earlier.failures
    return load.model_copy(update={"requests": requests, "failures": failures})
