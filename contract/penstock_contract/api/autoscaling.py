"""How pools are sized: bounds of each, schedules, and what holds for all pools together."""

from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from penstock_contract.api.base import ApiModel, DnsLabel, Duration, list_map, rules
from penstock_contract.api.patterns import CRON
from penstock_contract.cron import Cron

Replicas = Annotated[int, Field(ge=0, le=10_000)]
SomeReplicas = Annotated[int, Field(ge=1, le=10_000)]


def _checked_cron(text: str) -> str:
    Cron.parse(text)
    return text


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a folder of zones is an OSError
        raise ValueError(
            f"{name!r} is not a time zone of the IANA database, like Europe/Berlin"
        ) from None
    return name


CronExpression = Annotated[
    str,
    Field(pattern=CRON, max_length=128),
    AfterValidator(_checked_cron),
]
"""Five fields: minute, hour, day of month, month, day of week."""
TimeZone = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_checked_zone)]
"""A name of the IANA database."""


class Schedule(ApiModel):
    """Bounds that are narrower while it is open: from each `start` to the first `end` after it."""

    model_config = rules(
        ("self.start != self.end", "start and end must differ, or it would never close"),
        (
            "has(self.minReplicas) || has(self.maxReplicas)",
            "set minReplicas, maxReplicas, or both: without, it changes nothing",
        ),
        (
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || "
                "self.minReplicas <= self.maxReplicas"
            ),
            "minReplicas must not exceed maxReplicas",
        ),
    )

    name: DnsLabel
    """Unique in the pool; what reasons call it."""
    start: CronExpression
    """When it opens, as a cron expression: `0 8 * * mon-fri`. Its replicas are ready by then, since
    they are started as much earlier as they take."""
    end: CronExpression
    """When it closes: `0 18 * * mon-fri`."""
    time_zone: TimeZone = "UTC"
    """Whose wall clocks `start` and `end` mean, like `Europe/Berlin`, with its summer time."""
    min_replicas: SomeReplicas | None = None
    """Never fewer while it is open, also of an idle deployment."""
    max_replicas: SomeReplicas | None = None
    """Never more while it is open."""

    @model_validator(mode="after")
    def _closes(self) -> Self:
        if Cron.parse(self.start) == Cron.parse(self.end):
            raise ValueError("start and end name the same minutes: it would never close")
        return self


class Scaling(ApiModel):
    """Bounds inside which the autoscaler sizes a pool."""

    model_config = rules(
        ("self.minReplicas <= self.maxReplicas", "minReplicas must not exceed maxReplicas"),
        (
            "self.schedules.all(s, self.schedules.exists_one(t, t.name == s.name))",
            "schedule names must be unique",
        ),
        (
            (
                "self.schedules.all(s, (!has(s.minReplicas) || "
                "(self.minReplicas <= s.minReplicas && s.minReplicas <= self.maxReplicas)) && "
                "(!has(s.maxReplicas) || "
                "(self.minReplicas <= s.maxReplicas && s.maxReplicas <= self.maxReplicas)))"
            ),
            "a schedule only narrows: its replicas must lie within minReplicas and maxReplicas",
        ),
    )

    min_replicas: Replicas = 1
    """Never fewer, except zero while scaled to zero."""
    max_replicas: SomeReplicas
    """Never more."""
    schedules: Annotated[
        list[Schedule], Field(max_length=16, json_schema_extra=list_map("name"))
    ] = []
    """Narrower bounds at certain times. Of those that are open, the highest `minReplicas` and the
    lowest `maxReplicas` hold; where they cross, the latter."""


class ScalingPolicy(StrEnum):
    """How pools with `scaling` are sized."""

    LITTLES_LAW = "LittlesLaw"
    CONCURRENCY = "Concurrency"
    NONE = "None"


class ScaleStep(ApiModel):
    """A limit on one direction of scaling."""

    max_step: Annotated[int, Field(ge=1, le=10_000)]
    """Replicas per decision."""
    window: Duration | None = None
    """Time over which the decision must have held. Default: none for more workers; for fewer, as
    long as a new one takes to serve, and a minute at least."""


class Behavior(ApiModel):
    """Limits on the speed of scaling."""

    scale_up: ScaleStep = ScaleStep(max_step=4)
    """Limit on adding workers."""
    scale_down: ScaleStep = ScaleStep(max_step=1)
    """Limit on taking workers away."""


class Budget(ApiModel):
    """A joint bound on all pools."""

    max_gpus: Annotated[int, Field(alias="maxGPUs", ge=0)]
    """GPUs that all pools together may have."""


class ScaleToZero(ApiModel):
    """Stop all workers of an idle deployment."""

    idle: Duration
    """Idleness after which the last worker goes."""


class Autoscaling(ApiModel):
    """How pools with `scaling` are sized."""

    policy: ScalingPolicy = ScalingPolicy.LITTLES_LAW
    """LittlesLaw sizes by L = λ·W against `slo`, Concurrency by running sequences; None: not."""
    behavior: Behavior = Behavior()
    """Limits on the speed of scaling."""
    budget: Budget | None = None
    """Bound on all pools together; absent: none."""
    scale_to_zero: ScaleToZero | None = None
    """Stop the last worker of an idle deployment; absent: never."""
