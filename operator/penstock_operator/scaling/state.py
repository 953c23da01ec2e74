"""What the autoscaler remembers between two decisions: plain values that survive a restart."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_contract.api import Role
from penstock_operator.scaling.cover import Cover, Usual
from penstock_operator.scaling.decoding import Decoding
from penstock_operator.scaling.forecast import Forecast


@dataclass(frozen=True)
class PoolState:
    """The memory of one pool. Times are in seconds of the caller's clock."""

    forecast: Forecast = field(default_factory=Forecast)
    decoding: Decoding = field(default_factory=Decoding)
    wanted: tuple[tuple[float, int], ...] = ()
    """(time, replicas that would do) over the longer of the two windows."""
    first_seen: float | None = None
    """When the pool was first decided about; None: never."""


@dataclass(frozen=True)
class ScalingState:
    """The memory of one deployment."""

    pools: Mapping[str, PoolState] = field(default_factory=dict)
    covers: Mapping[Role, Cover] = field(default_factory=dict)
    """Factors on forecast errors, learned from how many requests were late."""
    usual: Usual = field(default_factory=Usual)
    """Arrivals, by which news of lateness is weighed."""
    decided: float | None = None
    """When the last decision was made."""
    idle_since: float | None = None
    """Since when it has positively been idle; None: it is not."""
    started: Mapping[str, float] = field(default_factory=dict)
    """Seconds before their start at which schedules began to start replicas, while they do."""
