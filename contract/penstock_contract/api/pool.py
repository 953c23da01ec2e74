"""Pools: the part of an InferenceDeployment that scales, and its own object, EnginePool.

EnginePool exists because a CRD's scale path cannot index a list: with one object per pool,
`kubectl scale`, an HPA or KEDA can take over a single pool.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from penstock_contract.api.accelerators import GPU, accelerators
from penstock_contract.api.autoscaling import Replicas, Scaling
from penstock_contract.api.base import (
    ApiModel,
    Condition,
    Decimal,
    DnsLabel,
    ObjectMeta,
    Quantity,
    list_map,
    quantity,
    rules,
)
from penstock_contract.api.pod_template import PodTemplate
from penstock_contract.api.revision import CanaryStatus, Revision


class Role(StrEnum):
    """What the workers of a pool compute."""

    UNIFIED = "Unified"
    PREFILL = "Prefill"
    DECODE = "Decode"


class ClaimRef(ApiModel):
    """Devices of a claim that the worker's container uses."""

    name: DnsLabel
    """An entry of `template.resourceClaims`."""
    request: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """One request of the claim; default: all of it."""


class Resources(ApiModel):
    """Container resources, as in a pod."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """What the scheduler reserves; default: the limits."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """Hard limits. A resource of a device plugin, `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb` or
    `amd.com/gpu` for example, makes it a GPU worker."""
    claims: Annotated[list[ClaimRef], Field(max_length=8, json_schema_extra=list_map("name"))] = []
    """Devices by dynamic resource allocation: entries of `template.resourceClaims`."""

    @property
    def devices(self) -> list[str]:
        """Accelerators that are asked for, by resource."""
        return [name for name in accelerators(self.limits) if quantity(self.limits[name])]

    @property
    def device(self) -> str:
        """What an accelerator of the pod is called, or would be."""
        return next(iter(self.devices), GPU)

    @property
    def gpus(self) -> int:
        """Accelerators of one pod."""
        return round(sum(quantity(self.limits[name]) for name in self.devices))


class Parallelism(ApiModel):
    """How one replica is spread over devices."""

    tensor: Annotated[int, Field(ge=1, le=64)] = 1
    """Tensor-parallel size: GPUs that share each layer, or without GPUs processes."""
    pipeline: Annotated[int, Field(ge=1, le=64)] = 1
    """Pipeline-parallel size: groups of layers, `tensor` GPUs each; with `engine.type: VLLM`."""
    nodes: Annotated[int, Field(ge=1, le=16)] = 1
    """Nodes that one replica spans: so many pods, of which the first serves and the others compute
    for it. GPUs of a pod × nodes = tensor × pipeline."""


class PoolShape(ApiModel):
    """What decides the form of a pool's workers, apart from their number."""

    role: Role = Role.UNIFIED
    """Unified serves whole requests; Prefill and Decode split them."""
    resources: Resources = Resources()
    """CPU, memory and GPUs of one pod; a replica has `parallelism.nodes` of them."""
    parallelism: Parallelism = Parallelism()
    """How one replica is spread over GPUs and nodes."""
    cost_per_hour: Decimal | None = None
    """Price of one replica, all its pods together; of a role, the cheapest pool grows first."""
    template: PodTemplate = PodTemplate()
    """Where its pods may run, and what is added to them."""

    @property
    def gpus(self) -> int:
        """Accelerators of one replica, for the budget.

        How many a claim stands for is known when it is allocated; the engine takes as many as it is
        spread over.
        """
        limited = self.resources.gpus * self.parallelism.nodes
        by_claim = self.parallelism.tensor * self.parallelism.pipeline
        return limited or (by_claim if self.resources.claims else 0)


class Pool(PoolShape):
    """One entry of `spec.pools`."""

    model_config = rules(
        ("has(self.replicas) != has(self.scaling)", "set exactly one of replicas and scaling"),
        ("self.role == oldSelf.role", "role is immutable: add a pool of the other role instead"),
    )

    name: DnsLabel
    """Unique in the InferenceDeployment."""
    replicas: Replicas | None = None
    """A fixed number of workers; in place of `scaling`."""
    scaling: Scaling | None = None
    """Bounds between which the autoscaler sizes it; in place of `replicas`."""

    @property
    def initial_replicas(self) -> int:
        """Workers to start with, before anybody has scaled the pool."""
        if self.replicas is not None:
            return self.replicas
        return self.scaling.min_replicas if self.scaling else 1


class EnginePoolSpec(PoolShape):
    """Desired state of a pool; `replicas` is the scale subresource's."""

    model_config = rules(
        ("self.role == oldSelf.role", "role is immutable: add a pool of the other role instead"),
    )

    deployment: DnsLabel
    """The InferenceDeployment that the pool belongs to."""
    pool: DnsLabel
    """Its name in `spec.pools`."""
    replicas: Replicas = 1
    """Desired workers: written by the autoscaler, `kubectl scale` or an HPA."""
    rollout_hash: Annotated[str, Field(max_length=64)]
    """Revision of model, engine and pool template that the workers should run."""


class EnginePoolStatus(ApiModel):
    """Observed state of a pool."""

    observed_generation: int | None = None
    """The generation that this status describes."""
    replicas: int = 0
    """Workers that exist."""
    ready_replicas: int = 0
    """Workers that passed the one-token probe."""
    draining_replicas: int = 0
    """Workers that finish their requests and take no new ones."""
    revision: Revision = Revision()
    """Rollout progress: hashes of this pool's workers."""
    canary: CanaryStatus | None = None
    """Present while a new revision is on trial, and until it has replaced the old one."""
    selector: str = ""
    """Label selector of the pool's pods, for the scale subresource."""
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))
    ] = []
    """metav1 conditions."""


class EnginePool(ApiModel):
    """A pool of workers; created and owned by an InferenceDeployment."""

    api_version: Literal["penstock.dev/v1alpha1"] = "penstock.dev/v1alpha1"
    kind: Literal["EnginePool"] = "EnginePool"
    metadata: ObjectMeta
    spec: EnginePoolSpec
    """Desired state."""
    status: EnginePoolStatus | None = None
    """Observed state."""
