"""The autoscaler's decision, whole: memory, observation and time in; sizes with reasons out.

Pure and replayable: the operator, the local runtime and the simulator call this very function, and
a recorded decision can be made again from its log.
"""

from dataclasses import replace

from penstock_contract.api import Role
from penstock_operator.scaling.budget import inside_budget
from penstock_operator.scaling.cover import cover
from penstock_operator.scaling.decision import Decision, Decisions
from penstock_operator.scaling.guards import guard
from penstock_operator.scaling.idleness import idle_since
from penstock_operator.scaling.need import DEFAULT_TTFT, Need, demand, need
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.signal import Health, worst
from penstock_operator.scaling.spec import PoolBounds, ScalingSpec
from penstock_operator.scaling.state import PoolState, ScalingState


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
    allowed = 1 - (spec.ttft or DEFAULT_TTFT).quantile
    elapsed = now - state.decided if state.decided is not None else 0.0
    factor = cover(state.cover, seen.traffic.late_share, allowed, elapsed)
    idle = spec.idle is not None and since is not None and now - since >= spec.idle
    pools: dict[str, PoolState] = {}
    found: dict[str, Decision] = {}
    for bounds in spec.pools:
        view = seen.pools.get(bounds.name)
        if view is None:
            continue
        before = state.pools.get(bounds.name, PoolState())
        if idle:
            pools[bounds.name] = before
            found[bounds.name] = _to_zero(bounds, view, now - (since or now))
        else:
            pools[bounds.name], found[bounds.name] = _pool(
                before, seen, bounds, view, spec, now, factor
            )
    sized = inside_budget(found, spec)
    return ScalingState(pools, factor, now, since), Decisions(sized, idle)


def _pool(
    before: PoolState,
    seen: Observation,
    bounds: PoolBounds,
    view: PoolView,
    spec: ScalingSpec,
    now: float,
    factor: float,
) -> tuple[PoolState, Decision]:
    health = _health(bounds.role, seen.traffic, view)
    if view.curve is None:
        at_least = max(view.desired, bounds.minimum, int(_waits(seen.traffic)))
        words = "the workers have not measured their speed yet"
        return before, Decision(bounds.name, view.desired, at_least, words, health=health)
    asked = demand(bounds.role, view.curve, seen.traffic, view)
    state = before
    if health is Health.FRESH:  # a gap must not be remembered as a drop
        state = replace(before, forecast=before.forecast.after(asked.total, now, spec.lead))
    found = need(bounds.role, view.curve, asked, state.forecast, factor, spec)
    if found.infeasible:
        return state, Decision(bounds.name, view.desired, view.desired, found.infeasible, found)
    proposal, state = guard(found.replicas, view.desired, health, state, bounds, spec, now)
    words = _words(found, proposal.replicas, view.desired)
    return state, Decision(
        bounds.name, view.desired, proposal.replicas, words, found, proposal.guards, health
    )


def _health(role: Role, traffic: Traffic, view: PoolView) -> Health:
    """What a shrink rests on: all of it must be fresh."""
    signals = [traffic.arrivals, traffic.uncached_tokens, traffic.queued_tokens]
    if view.ready:
        signals += [view.running, view.kv_tokens, view.waiting_tokens]
        if role is not Role.PREFILL:
            signals.append(view.decode_share)
    return worst(signals)


def _waits(traffic: Traffic) -> bool:
    return traffic.queued_requests.at_least > 0


def _to_zero(bounds: PoolBounds, view: PoolView, idle: float) -> Decision:
    words = f"no request for {idle:.0f} s"
    return Decision(bounds.name, view.desired, 0, words)


def _words(found: Need, replicas: int, current: int) -> str:
    verb = "hold" if replicas == current else f"{current} to {replicas}"
    count, level = found.counts[found.binding], found.numbers["level"]
    return f"{verb}: {found.binding} needs {count:.2f} replicas for {level:.2f} of work"
