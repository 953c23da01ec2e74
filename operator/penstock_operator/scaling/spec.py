"""What the user asked of the autoscaler, in numbers."""

from dataclasses import dataclass
from enum import StrEnum

from penstock_contract.api import InferenceDeployment, Pool, Role, ScalingPolicy
from penstock_contract.api.autoscaling import Schedule as ApiSchedule
from penstock_contract.api.base import seconds
from penstock_contract.api.engine import Task
from penstock_contract.api.slo import Objective as ApiObjective


@dataclass(frozen=True)
class Objective:
    """`quantile` of requests within `seconds`."""

    quantile: float
    seconds: float


SCHEDULE = "schedule"
"""What the words of a guard begin with when a schedule made it fire."""


@dataclass(frozen=True)
class Schedule:
    """Bounds at certain times of a wall clock; None: not of its business."""

    name: str
    start: str
    """Cron expression; it opens then."""
    end: str
    """Cron expression; it closes then."""
    zone: str = "UTC"
    """IANA name."""
    minimum: int | None = None
    maximum: int | None = None


class Phase(StrEnum):
    """What a schedule does at one moment."""

    CLOSED = "closed"
    STARTING = "starting"
    """It will be open when a replica that is started now serves: its minimum holds."""
    OPEN = "open"


@dataclass(frozen=True)
class Turn:
    """A schedule at one moment."""

    name: str
    phase: Phase
    until: str
    """When it closes or opens next, as a clock of its zone shows it."""
    ahead: float = 0.0
    """Seconds before it opens, at which its replicas are started."""
    minimum: int | None = None
    maximum: int | None = None

    def holds_down(self, maximum: int) -> bool:
        """Return whether a maximum is its own."""
        return self.phase is Phase.OPEN and self.maximum == maximum


@dataclass(frozen=True)
class PoolBounds:
    """One pool's limits."""

    name: str
    role: Role
    minimum: int
    maximum: int
    gpus: int = 0
    """GPUs of one replica."""
    cost: float = 1.0
    """Price of one replica-hour; only ratios matter."""
    slots: int = 256
    """Sequences that one replica runs at once."""
    fixed: bool = False
    """Its size is not the autoscaler's; it only carries its part of the work."""
    apart: float = 0.0
    """Seconds that each further replica comes after the one before; 0: they start together."""
    schedules: tuple[Schedule, ...] = ()
    turns: tuple[Turn, ...] = ()
    """What they do now, which `minimum` and `maximum` follow already."""

    @property
    def wanted_now(self) -> tuple[Turn, ...]:
        """Return the schedules that ask for replicas, whether anybody uses them or not."""
        return tuple(turn for turn in self.turns if turn.minimum and turn.phase is not Phase.CLOSED)

    def why(self, more: bool) -> str:
        """Return whose bound it is that asks for more replicas, or for fewer."""
        if more:
            names = [turn.name for turn in self.wanted_now if turn.minimum == self.minimum]
            words = f"at least {self.minimum}"
        else:
            names = [turn.name for turn in self.turns if turn.holds_down(self.maximum)]
            words = f"at most {self.maximum}"
        if names:
            return f"{SCHEDULE} {names[0]}: {words}"
        return f"bounds {self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class ScalingSpec:
    """All of it, for one deployment. Times are in seconds."""

    pools: tuple[PoolBounds, ...]
    policy: ScalingPolicy = ScalingPolicy.LITTLES_LAW
    ttft: Objective | None = None
    tpot: Objective | None = None
    max_up: int = 4
    up_window: float = 0.0
    max_down: int = 1
    down_window: float = 90.0
    max_gpus: int | None = None
    idle: float | None = None
    """Idleness after which the last replica goes; None: never."""
    lead: float = 90.0
    """From a change in demand to a new replica that serves: metric lag, interval, cold start; to
    the last one of a step, where they come one after the other."""

    @property
    def strictest(self) -> float | None:
        """Return the largest quantile asked for: a request is late when it misses any objective."""
        return max((found.quantile for found in (self.ttft, self.tpot) if found), default=None)


SHORTEST_WINDOW = 60.0
"""Seconds that fewer replicas must have been enough, however fast one starts."""


def scaling_spec(deployment: InferenceDeployment, lead: float, apart: float = 0.0) -> ScalingSpec:
    """Return what a deployment asks for.

    Args:
        deployment: what the user wrote.
        lead: seconds from a change in demand to a new replica that serves.
        apart: seconds until a replica that spans nodes has them and the next one may come.
    """
    spec = deployment.spec
    wanted = spec.autoscaling
    up, down = wanted.behavior.scale_up, wanted.behavior.scale_down
    slots, task = spec.engine.max_num_seqs, spec.engine.task
    pools = tuple(_bounds(pool, slots, task, apart) for pool in spec.pools)
    lead += max(_in_line(bounds, up.max_step) * bounds.apart for bounds in pools)
    return ScalingSpec(
        pools=pools,
        policy=wanted.policy,
        ttft=_objective(spec.slo.ttft),
        tpot=_objective(spec.slo.tpot),
        max_up=up.max_step,
        up_window=seconds(up.window) if up.window else 0.0,
        max_down=down.max_step,
        down_window=seconds(down.window) if down.window else max(SHORTEST_WINDOW, lead),
        max_gpus=wanted.budget.max_gpus if wanted.budget else None,
        idle=seconds(wanted.scale_to_zero.idle) if wanted.scale_to_zero else None,
        lead=lead,
    )


def _in_line(bounds: PoolBounds, step: int) -> int:
    """Return after how many others the last replica of a step may come."""
    return max(0, min(step, bounds.maximum - bounds.minimum) - 1)


def _bounds(pool: Pool, slots: int, task: Task, apart: float) -> PoolBounds:
    size, bounds = pool.initial_replicas, pool.scaling
    return PoolBounds(
        name=pool.name,
        # What embeds or scores computes prompts and nothing else: it is sized as they are.
        role=Role.PREFILL if task.is_pooling else pool.role,
        minimum=bounds.min_replicas if bounds else size,
        maximum=bounds.max_replicas if bounds else size,
        slots=slots,
        fixed=bounds is None,
        gpus=pool.gpus,
        apart=apart if pool.parallelism.nodes > 1 else 0.0,
        cost=float(pool.cost_per_hour) if pool.cost_per_hour else 1.0,
        schedules=tuple(_schedule(found) for found in bounds.schedules) if bounds else (),
    )


def _schedule(found: ApiSchedule) -> Schedule:
    return Schedule(
        name=found.name,
        start=found.start,
        end=found.end,
        zone=found.time_zone,
        minimum=found.min_replicas,
        maximum=found.max_replicas,
    )


def _objective(found: ApiObjective | None) -> Objective | None:
    return Objective(float(found.quantile), seconds(found.target)) if found else None
