"""What is observed of an InferenceDeployment."""

from typing import Annotated

from pydantic import Field

from penstock_contract.adapters import AdapterState
from penstock_contract.api.base import (
    ApiModel,
    Condition,
    list_map,
)
from penstock_contract.api.revision import CanaryStatus, Revision


class LastScale(ApiModel):
    """The last change of a pool's size, with its arithmetic."""

    from_: Annotated[int, Field(alias="from")]
    """Replicas before."""
    to: int
    """Replicas after."""
    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When."""
    reason: str
    """Why, in words."""
    inputs: dict[str, str] = {}
    """The numbers that it came from."""


class PoolStatus(ApiModel):
    """Observed state of one pool."""

    name: str
    """Name of the pool."""
    desired: int = 0
    """Workers wanted."""
    ready: int = 0
    """Workers that serve."""
    draining: int = 0
    """Workers that finish and go."""
    last_scale: LastScale | None = None
    """Last change of size."""


class AdapterStatus(ApiModel):
    """Observed state of one adapter."""

    name: str
    """Name that clients send as `model`."""
    state: AdapterState = AdapterState.LOADING
    """Ready: every worker that serves has it. Failed: one says why not; others may have it."""
    ready: int = 0
    """Workers that have it, as it is in the spec."""
    workers: int = 0
    """Workers that serve, and so should have it."""
    message: str = ""
    """Why it is not Ready."""


class InferenceDeploymentStatus(ApiModel):
    """Observed state of a served model."""

    observed_generation: int | None = None
    """The generation that this status describes."""
    url: str | None = None
    """Base URL of the OpenAI endpoint."""
    revision: Revision = Revision()
    """Rollout progress."""
    canary: CanaryStatus | None = None
    """Present while a new revision is on trial."""
    pools_summary: str = ""
    """`ready/desired` over all pools, for `kubectl get`."""
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))
    ] = []
    """metav1 conditions: Ready, ModelResolved, PoolsReady, RouterReady, …"""
    pools: Annotated[
        list[PoolStatus], Field(max_length=16, json_schema_extra=list_map("name"))
    ] = []
    """Per pool."""
    adapters: Annotated[
        list[AdapterStatus], Field(max_length=256, json_schema_extra=list_map("name"))
    ] = []
    """Per adapter of `spec.model.adapters`."""
