"""InferenceDeployment: one served model, and all that serving it needs."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from penstock_contract.api.autoscaling import Autoscaling, ScalingPolicy
from penstock_contract.api.base import (
    ApiModel,
    DnsLabel,
    Duration,
    ObjectMeta,
    list_map,
    rules,
)
from penstock_contract.api.engine import Engine
from penstock_contract.api.model import Model
from penstock_contract.api.pool import Pool
from penstock_contract.api.slo import Slo
from penstock_contract.api.status import InferenceDeploymentStatus


class DisaggregationMode(StrEnum):
    """Auto decides per request."""

    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Transfer(ApiModel):
    """KV hand-off between prefill and decode workers; what does not arrive is computed again."""

    lease_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a prefill worker keeps blocks for a decode worker."""


class Disaggregation(ApiModel):
    """When prefill and decode run on different workers."""

    mode: DisaggregationMode = DisaggregationMode.AUTO
    """Auto: remote prefill only when it is sooner."""
    min_uncached_tokens: Annotated[int, Field(ge=0)] = 512
    """Shorter uncached prompts are always computed locally."""
    transfer: Transfer = Transfer()
    """How KV is handed over."""


class Retry(ApiModel):
    """What the gateway does when a worker fails."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """Workers tried before the first byte."""
    resume_streams: bool = True
    """Continue a broken stream on another worker."""


class Routing(ApiModel):
    """How the gateway chooses a worker."""

    policy: Literal["PrefixAware", "LeastLoad", "RoundRobin", "ConsistentHash"] = "PrefixAware"
    """PrefixAware weighs cached prefixes against load, in seconds."""
    retry: Retry = Retry()
    """What happens to requests whose worker fails."""


class Queue(ApiModel):
    """Requests that wait at the gateway while the pool is saturated."""

    max_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 5000
    """Requests that may wait; more are refused."""
    timeout: Duration = "30s"
    """Longest wait while workers exist."""
    cold_start_timeout: Duration = "5m"
    """Longest wait while there is no worker at all."""


class RequestClass(ApiModel):
    """A class of requests with its priority."""

    name: DnsLabel
    """Unique in the InferenceDeployment."""
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Higher is served first; negative is shed first."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share among classes of the same priority."""
    default: bool = False
    """The class of requests that name none."""
    queue_timeout: Duration | None = None
    """Longest wait; default: the queue's."""


class Canary(ApiModel):
    """Try a new revision on a part of the traffic first."""

    weight: Annotated[int, Field(ge=1, le=99)]
    """Percent of requests."""
    pause: Duration = "5m"
    """How long before it takes over."""


class Rollout(ApiModel):
    """How a new revision replaces the old one."""

    max_surge: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Workers above the desired number."""
    max_unavailable: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Workers below the desired number."""
    canary: Canary | None = None
    """Absent: a plain rolling update."""

    model_config = rules(
        (
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "maxSurge and maxUnavailable must not both be 0: nothing could ever be replaced",
        )
    )


class Drain(ApiModel):
    """How a worker leaves."""

    timeout: Duration = "120s"
    """Longest time that its running requests get."""


class InferenceDeploymentSpec(ApiModel):
    """Desired state of a served model."""

    model_config = rules(
        (
            (
                "self.pools.all(p, p.role == 'Unified') || "
                "(self.pools.all(p, p.role != 'Unified') "
                "&& self.pools.exists(p, p.role == 'Prefill') "
                "&& self.pools.exists(p, p.role == 'Decode'))"
            ),
            "pools must all be Unified, or be at least one Prefill and at least one Decode pool",
        ),
        (
            "self.pools.all(p, self.pools.exists_one(q, q.name == p.name))",
            "pool names must be unique",
        ),
        (
            "self.requestClasses.filter(c, c.default).size() <= 1",
            "at most one request class may be the default",
        ),
        (
            "self.requestClasses.all(c, self.requestClasses.exists_one(d, d.name == c.name))",
            "request class names must be unique",
        ),
        (
            "!(self.engine.task in ['Embed', 'Score']) || self.pools.all(p, p.role == 'Unified')",
            "a model that embeds or scores keeps no KV to hand over: its pools must be Unified",
        ),
        (
            (
                "!(self.engine.task in ['Embed', 'Score']) || "
                "self.engine.speculative.method == 'none'"
            ),
            "a model that embeds or scores has no tokens to guess: use speculative.method none",
        ),
        (
            "!(self.engine.task in ['Embed', 'Score']) || self.model.adapters.size() == 0",
            "a model that embeds or scores takes no adapters",
        ),
        (
            (
                "!has(self.engine.lora) || "
                "self.model.adapters.size() <= self.engine.lora.maxAdapters"
            ),
            "more adapters than engine.lora.maxAdapters, which workers keep at a time: raise it",
        ),
    )

    model: Model
    """Which model is served, and under which names."""
    engine: Engine = Engine()
    """What runs the model, and how; a change of it is a rollout."""
    pools: Annotated[
        list[Pool], Field(min_length=1, max_length=16, json_schema_extra=list_map("name"))
    ]
    """Pools of workers: Unified ones, or Prefill and Decode ones. Each becomes an EnginePool."""
    disaggregation: Disaggregation = Disaggregation()
    """When prompts are computed on other workers than answers; needs Prefill and Decode pools."""
    slo: Slo = Slo()
    """Latency objectives, which autoscaler, gateway and workers keep."""
    autoscaling: Autoscaling = Autoscaling()
    """How pools with `scaling` are sized; `penstock explain` tells why they are as they are."""
    routing: Routing = Routing()
    """How the gateway chooses a worker for a request."""
    queue: Queue = Queue()
    """How many requests wait at the gateway, and how long, while workers are full or starting."""
    request_classes: Annotated[
        list[RequestClass], Field(max_length=16, json_schema_extra=list_map("name"))
    ] = []
    """Priorities; empty means one class of priority 0."""
    rollout: Rollout = Rollout()
    """How a new revision replaces the workers of the one before."""
    drain: Drain = Drain()
    """How workers finish their requests before they go."""


class InferenceDeployment(ApiModel):
    """A served model: `kubectl apply` one, and the gateway serves it."""

    api_version: Literal["penstock.dev/v1alpha1"] = "penstock.dev/v1alpha1"
    kind: Literal["InferenceDeployment"] = "InferenceDeployment"
    metadata: ObjectMeta
    spec: InferenceDeploymentSpec
    """Desired state."""
    status: InferenceDeploymentStatus | None = None
    """Observed state."""

    @property
    def served_name(self) -> str:
        """The model name that clients use."""
        return self.spec.model.name or self.metadata.name

    @property
    def is_autoscaled(self) -> bool:
        """Whether the autoscaler sizes any of its pools."""
        wanted = self.spec.autoscaling.policy is not ScalingPolicy.NONE
        return wanted and any(pool.scaling for pool in self.spec.pools)
