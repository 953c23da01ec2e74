"""Prefill and decode in proportion: prompts whose answers nobody can generate help no one.

Every answer needs the decode pools, so when those cannot grow (bounds, budget, steps, a fixed size)
more prefill workers only make a queue in front of them, and take GPUs that decoding lacks. The
other way round nothing is held back: what prefill workers cannot take, decode workers compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from penstock_contract.api import Role
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.need import SLACK
from penstock_operator.scaling.split import Carrier

Carriers = Mapping[Role, Sequence[Carrier]]


def matched(found: Mapping[str, Decision], carriers: Carriers) -> dict[str, Decision]:
    """Return the decisions with the growth of prefill pools cut to what decoding can follow.

    carriers: every pool, by role; one that has no decision keeps its minimum, which is its size.
    """
    decisions = dict(found)
    part = carried(found, carriers.get(Role.DECODE, ()))
    for carrier in carriers.get(Role.PREFILL, ()):
        if part < 1 and carrier.name in found:
            decisions[carrier.name] = _cut(found[carrier.name], carrier.minimum, part)
    return decisions


def carried(found: Mapping[str, Decision], carriers: Sequence[Carrier]) -> float:
    """Return the share of a role's work, at most 1, that its pools carry at their new sizes."""
    part = 0.0
    for carrier in carriers:
        decision = found.get(carrier.name)
        size = decision.replicas if decision else carrier.minimum
        # A pool that needs nothing, or whose speed nobody knows, holds no one back.
        part += size / carrier.alone if carrier.alone > 0 else 1.0
    return min(1.0, part) if carriers else 1.0


def _cut(decision: Decision, minimum: int, part: float) -> Decision:
    if decision.need is None or not decision.need.counts:
        return decision
    useful = ceil(part * max(decision.need.counts.values()) - SLACK)
    most = max(decision.current, minimum, useful)
    if decision.replicas <= most:
        return decision
    words = f"decode can take {part:.0%}"
    return replace(decision, replicas=most, guards=(*decision.guards, words))
