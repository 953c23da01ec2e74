"""What the autoscaler answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_operator.scaling.need import Need
from penstock_operator.scaling.signal import Health


@dataclass(frozen=True)
class Decision:
    """The size of one pool, and why."""

    pool: str
    current: int
    replicas: int
    reason: str
    """In words, for status, Events and logs."""
    need: Need | None = None
    """The arithmetic; None where it could not be done."""
    guards: tuple[str, ...] = ()
    """What changed the arithmetic's answer."""
    health: Health = Health.FRESH
    """Of the metrics that it rests on."""


@dataclass(frozen=True)
class Decisions:
    """What to do about all pools of a deployment."""

    pools: Mapping[str, Decision] = field(default_factory=dict)
    idle: bool = False
    """Whether it has been idle for as long as scaling to zero asks."""
