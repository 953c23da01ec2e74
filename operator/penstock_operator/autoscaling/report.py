"""What is told of decisions: condition, last change of size, its inputs. Pure."""

from collections.abc import Iterable, Mapping

from penstock_contract.api.status import LastScale
from penstock_contract.conditions import Reason
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.signal import Health

LONGEST = 300
"""Characters of the metrics' problems that a condition repeats."""
NEEDED = "needed."
"""Before the names of those inputs that are replicas needed by a resource."""


def reason(decisions: Iterable[Decision], problems: Iterable[str]) -> tuple[Reason, str]:
    """Return the state of the autoscaler and, where it is not well, why."""
    found = list(decisions)
    for decision in found:
        if decision.need and decision.need.infeasible:
            return Reason.OBJECTIVE_INFEASIBLE, f"{decision.pool}: {decision.need.infeasible}"
    if told := "; ".join(problems)[:LONGEST]:
        return Reason.METRICS_STALE, told
    for decision in found:
        if decision.need is None and decision.replicas > 0:
            return Reason.LEARNING, f"{decision.pool}: {decision.reason}"
        if decision.health is not Health.FRESH:
            return Reason.METRICS_STALE, f"{decision.pool}: metrics are {decision.health}"
    for decision in found:
        if limit := next((g for g in decision.guards if g.startswith("budget")), ""):
            return Reason.BUDGET_LIMITED, f"{decision.pool}: {limit}"
    return Reason.SCALING, ""


def last_scale(decision: Decision, time: str) -> LastScale:
    """Return a change of size as the status tells it. `time` is RFC 3339."""
    inputs: Mapping[str, float] = {}
    if decision.need:
        counts = {f"{NEEDED}{name}": count for name, count in decision.need.counts.items()}
        inputs = {**decision.need.numbers, **counts}
    return LastScale(
        **{"from": decision.current},
        to=decision.replicas,
        time=time,
        reason=decision.reason,
        inputs={name: f"{value:.4g}" for name, value in inputs.items()},
    )
