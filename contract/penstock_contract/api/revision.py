"""How far a new revision of the workers has come."""

from typing import Annotated

from pydantic import Field

from penstock_contract.api.base import ApiModel


class Revision(ApiModel):
    """Rollout hashes."""

    current: str = ""
    """The revision that all workers ran last."""
    updated: str = ""
    """The revision that the spec asks for."""
    rejected: str = ""
    """A revision that failed and was rolled back; it stays out until the spec changes."""


class CanaryStatus(ApiModel):
    """A new revision on trial: the gateway sends it `weight` percent of the requests."""

    revision: str
    """Rollout hash of the pool's workers on trial."""
    weight: int
    """Percent of requests; 0 once it was promoted and replaces the old one."""
    since: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When it was ready for its first request."""
