"""From what is needed to what is done: the guards between the arithmetic and the pool.

In order: tolerance and dead band, metric health, warm-up, windows, steps, bounds. Each says so when
it changed something, and growing is held back by less than shrinking, because an idle replica costs
money and a missing one costs requests.
"""

from dataclasses import dataclass, replace
from math import ceil, sqrt

from penstock_operator.scaling.need import SLACK
from penstock_operator.scaling.signal import Health
from penstock_operator.scaling.spec import PoolBounds, ScalingSpec
from penstock_operator.scaling.state import PoolState

TOLERANCE = 0.05
"""Share of the need that may be missing: nobody starts a replica for less."""
BAND = 0.1
"""Width of the dead band in units of the need's root, with which it scatters: a replica is given up
only when the pool without it would still have that much room, or it is back after a cold start."""


@dataclass(frozen=True)
class Proposal:
    """A size on its way through the guards, and which of them changed it."""

    replicas: int
    guards: tuple[str, ...] = ()

    def held(self, replicas: int, guard: str) -> "Proposal":
        """Return the proposal at another size, with the guard's words when it differs."""
        if replicas == self.replicas:
            return self
        return Proposal(replicas, (*self.guards, guard))


def guard(
    count: float,
    current: int,
    health: Health,
    state: PoolState,
    bounds: PoolBounds,
    spec: ScalingSpec,
    now: float,
) -> tuple[Proposal, PoolState]:
    """Return the size to ask for, and the state that remembers what was needed.

    Args:
        count: what Little's law gives, before rounding.
        current: what the pool is asked to have.
        health: of the worst signal that a shrink would rest on.
        state: of the pool.
        bounds: its limits.
        spec: the deployment's.
        now: seconds of the clock of `state`.
    """
    proposal = _outside_band(count, current)
    needed = proposal.replicas
    first = now if state.first_seen is None else state.first_seen
    horizon = now - max(spec.down_window, spec.up_window)
    wanted = (*(entry for entry in state.wanted if entry[0] > horizon), (now, needed))
    state = replace(state, wanted=wanted, first_seen=first)
    if needed < current:
        proposal = _shrink(proposal, current, health, state, spec, now)
    elif needed > current:
        proposal = _grow(proposal, current, state, spec, now)
    return inside(proposal, bounds), state


def inside(proposal: Proposal, bounds: PoolBounds) -> Proposal:
    """Return the proposal within the bounds that hold now."""
    held = min(max(proposal.replicas, bounds.minimum), bounds.maximum)
    return proposal.held(held, bounds.why(held > proposal.replicas))


def _outside_band(count: float, current: int) -> Proposal:
    least = (1 - TOLERANCE) * count
    needed = ceil(least - SLACK)
    if needed >= current:
        return Proposal(ceil(count - SLACK)).held(needed, f"tolerance of {TOLERANCE:.0%}")
    with_room = ceil(least + BAND * sqrt(count) - SLACK)
    return Proposal(needed).held(min(current, with_room), "dead band")


def _shrink(
    proposal: Proposal,
    current: int,
    health: Health,
    state: PoolState,
    spec: ScalingSpec,
    now: float,
) -> Proposal:
    if health is not Health.FRESH:
        return proposal.held(current, f"no shrink on {health} metrics")
    assert state.first_seen is not None  # noqa: S101 - set by the only caller
    if now - state.first_seen < spec.down_window:
        return proposal.held(current, "no shrink before one window was seen")
    peak = max(n for time, n in state.wanted if time >= now - spec.down_window)
    proposal = proposal.held(min(current, peak), f"{spec.down_window:.0f} s window")
    return proposal.held(
        max(proposal.replicas, current - spec.max_down), f"steps of {spec.max_down}"
    )


def _grow(
    proposal: Proposal, current: int, state: PoolState, spec: ScalingSpec, now: float
) -> Proposal:
    held = min(n for time, n in state.wanted if time >= now - spec.up_window)
    proposal = proposal.held(max(current, held), f"{spec.up_window:.0f} s window")
    return proposal.held(min(proposal.replicas, current + spec.max_up), f"steps of {spec.max_up}")
