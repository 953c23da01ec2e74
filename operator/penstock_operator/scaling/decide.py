"""The autoscaler's decision, whole: memory, observation and time in; sizes with reasons out.

Pure and replayable: the operator, the local runtime and the simulator call this very function, and
a recorded decision can be made again from its log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from penstock_contract.api import Role, ScalingPolicy
from penstock_operator.scaling.budget import inside_budget
from penstock_operator.scaling.cover import News, covers
from penstock_operator.scaling.decision import Decision, Decisions
from penstock_operator.scaling.forecast import Forecast
from penstock_operator.scaling.guards import Proposal, guard, inside
from penstock_operator.scaling.idleness import idle_since
from penstock_operator.scaling.need import (
    DEFAULT_TTFT,
    SLACK,
    Need,
    compared,
    concurrency_need,
    demand,
    in_progress,
    need,
)
from penstock_operator.scaling.observation import Observation, PoolView, Traffic, together
from penstock_operator.scaling.ratio import matched
from penstock_operator.scaling.schedules import started
from penstock_operator.scaling.signal import Health, worst
from penstock_operator.scaling.spec import SCHEDULE, PoolBounds, ScalingSpec
from penstock_operator.scaling.split import Carrier, shares
from penstock_operator.scaling.state import PoolState, ScalingState


@dataclass(frozen=True)
class _Moment:
    now: float
    elapsed: float
    """Seconds since the last decision."""
    calm: bool
    """Nobody has asked for anything for a whole window."""


@dataclass(frozen=True)
class _Weighed:
    """A pool with what it would need if it carried all of its role's work."""

    bounds: PoolBounds
    view: PoolView
    state: PoolState
    health: Health
    alone: Need | None
    """None: nobody knows how fast its workers are."""
    calm: bool
    """Nobody has asked for anything for a whole window."""


def decide(
    state: ScalingState, seen: Observation, spec: ScalingSpec, now: float
) -> tuple[ScalingState, Decisions]:
    """Return the new memory, and a size for every pool that the spec lets the autoscaler size.

    Args:
        state: what the last call returned; a new one after a restart never shrinks anything for a
            window.
        seen: what was measured.
        spec: what the user asked for.
        now: seconds of a clock that never goes back.
    """
    since = idle_since(state.idle_since, seen, now)
    elapsed = now - state.decided if state.decided is not None else 0.0
    usual = state.usual.after(seen.traffic.arrivals, elapsed)
    weight = usual.weight(seen.traffic.arrivals)
    news = News(elapsed * weight, elapsed / spec.lead)
    cover = covers(state.covers, seen.traffic, spec, news)
    quiet = now - since if since is not None else 0.0
    scheduled = any(bounds.wanted_now for bounds in spec.pools)
    idle = spec.idle is not None and since is not None and quiet >= spec.idle and not scheduled
    calm = since is not None and quiet >= spec.down_window
    moment = _Moment(now, elapsed, calm)
    pools: dict[str, PoolState] = {}
    found: dict[str, Decision] = {}
    carriers: dict[Role, list[Carrier]] = {}
    for role in Role:
        before, factor = state.pools, cover[role].factor
        weighed = [
            _weigh(before.get(bounds.name, PoolState()), seen, bounds, spec, moment, factor)
            for bounds in spec.pools
            if bounds.role is role and bounds.name in seen.pools
        ]
        carriers[role] = [_carrier(one) for one in weighed]
        parts = shares(carriers[role])
        for one in weighed:
            name = one.bounds.name
            pools[name] = one.state
            if one.bounds.fixed:
                continue
            if idle:
                found[name] = _to_zero(one, quiet)
            else:
                pools[name], found[name] = _size(one, parts[name], seen.traffic, spec, now)
    # What the budget leaves decides what can follow; what cannot follow must not use the budget up.
    sized = inside_budget(matched(found, carriers), spec, _fixed_gpus(spec, seen.pools))
    sized = matched(sized, carriers)
    after = ScalingState(pools, cover, usual, now, since, started(spec))
    return after, Decisions(sized, idle)


def _weigh(
    before: PoolState,
    seen: Observation,
    bounds: PoolBounds,
    spec: ScalingSpec,
    moment: _Moment,
    factor: float,
) -> _Weighed:
    view = seen.pools[bounds.name]
    role = _of_role(bounds.role, seen, spec)
    health = _health(bounds.role, seen.traffic, role, spec.policy)
    counted = spec.policy is ScalingPolicy.CONCURRENCY
    curve = None if counted else view.curve
    if curve is None and not counted:
        return _Weighed(bounds, view, before, health, None, moment.calm)
    state = before
    if curve is None:
        asked = in_progress(seen.traffic, role, bounds.slots)
    else:
        decoding = compared(before.decoding, curve, seen.traffic, role, moment.elapsed)
        state = replace(before, decoding=decoding)
        asked = demand(bounds.role, curve, seen.traffic, role, decoding)
    # A gap must not be remembered as a drop; a rise that is seen through it is a rise.
    if health is Health.FRESH or asked.total > before.forecast.level:
        patience = (spec.ttft or DEFAULT_TTFT).seconds
        forecast = before.forecast.after(asked.total, moment.now, spec.lead, patience)
        state = replace(state, forecast=forecast)
    # Head-room is for those who come; when nobody does, it is not held.
    ahead = Forecast.steady(state.forecast.level) if moment.calm else state.forecast
    if curve is None:
        alone = concurrency_need(asked, ahead, factor)
    else:
        alone = need(bounds.role, curve, asked, ahead, factor, spec, bounds.slots)
    return _Weighed(bounds, view, state, health, alone, moment.calm)


def _of_role(role: Role, seen: Observation, spec: ScalingSpec) -> PoolView:
    """Work does not belong to a pool: what any pool of the role has, all of them may carry."""
    names = [bounds.name for bounds in spec.pools if bounds.role is role]
    return together([seen.pools[name] for name in names if name in seen.pools])


def _carrier(one: _Weighed) -> Carrier:
    alone = max(one.alone.counts.values(), default=0.0) if one.alone else 0.0
    fixed, size = one.bounds.fixed, one.view.desired
    return Carrier(
        one.bounds.name,
        alone,
        minimum=size if fixed else one.bounds.minimum,
        maximum=size if fixed else one.bounds.maximum,
        cost=one.bounds.cost,
    )


def _size(
    one: _Weighed, share: float, traffic: Traffic, spec: ScalingSpec, now: float
) -> tuple[PoolState, Decision]:
    desired = one.view.desired
    if one.alone is None:
        proposal = inside(Proposal(max(desired, int(_waits(traffic)))), one.bounds)
        words = "the workers have not measured their speed yet"
        return one.state, _decision(one, proposal, words)
    if one.alone.infeasible and not one.calm:
        proposal = inside(Proposal(desired), one.bounds)
        return one.state, _decision(one, proposal, one.alone.infeasible, one.alone)
    found = _part(one.alone, share)
    count = found.counts.get(found.binding, 0.0)
    proposal, state = guard(count, desired, one.health, one.state, one.bounds, spec, now)
    return state, _decision(one, proposal, _words(found), found)


def _decision(one: _Weighed, proposal: Proposal, words: str, found: Need | None = None) -> Decision:
    by_the_clock = next((why for why in proposal.guards if why.startswith(SCHEDULE)), "")
    return Decision(
        pool=one.bounds.name,
        current=one.view.desired,
        replicas=proposal.replicas,
        reason=f"{by_the_clock}; {words}" if by_the_clock else words,
        need=found,
        guards=proposal.guards,
        health=one.health,
    )


def _part(alone: Need, share: float) -> Need:
    """Return what a share of the work needs. Erlang's square root makes this a little too much."""
    if share >= 1:
        return alone
    counts = {name: count * share for name, count in alone.counts.items()}
    replicas = ceil(counts.get(alone.binding, 0.0) - SLACK)
    return replace(
        alone, replicas=replicas, counts=counts, numbers={**alone.numbers, "share": share}
    )


def _health(role: Role, traffic: Traffic, view: PoolView, policy: ScalingPolicy) -> Health:
    """What a shrink rests on: all of it must be fresh."""
    signals = [traffic.arrivals, traffic.queued_requests]
    if policy is not ScalingPolicy.CONCURRENCY:
        signals += [traffic.uncached_tokens, traffic.queued_tokens]
    if view.ready:
        signals += [view.running, view.waiting]
        if policy is not ScalingPolicy.CONCURRENCY:
            signals += [view.kv_tokens, view.waiting_tokens]
            if role is not Role.PREFILL:
                signals.append(view.decode_share)
    return worst(signals)


def _waits(traffic: Traffic) -> bool:
    return traffic.queued_requests.at_least > 0


def _to_zero(one: _Weighed, idle: float) -> Decision:
    return Decision(one.bounds.name, one.view.desired, 0, f"no request for {idle:.0f} s")


def _fixed_gpus(spec: ScalingSpec, views: Mapping[str, PoolView]) -> int:
    fixed = [bounds for bounds in spec.pools if bounds.fixed and bounds.name in views]
    return sum(views[bounds.name].desired * bounds.gpus for bounds in fixed)


def _words(found: Need) -> str:
    if found.infeasible:  # and yet decided: there is nothing to do
        return f"no request for a while; {found.infeasible}"
    count, level = found.counts[found.binding], found.numbers["level"]
    return f"{found.binding} needs {count:.2f} replicas for {level:.2f} of work"
