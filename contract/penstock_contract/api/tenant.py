"""Tenant: who may call which models, how much, with which priority."""

from typing import Annotated, Literal

from pydantic import Field

from penstock_contract.api.base import (
    ApiModel,
    Condition,
    DnsLabel,
    ObjectMeta,
    list_map,
    rules,
)
from penstock_contract.api_keys import HASH_PATTERN


class ApiKey(ApiModel):
    """The hash of an API key: in a Secret of the same namespace, or right here."""

    model_config = rules(
        ("has(self.name) != has(self.sha256)", "give the name of a Secret, or sha256; not both"),
    )

    name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)] = "key"
    """Key in it; the value is the hash of an API key, never the key itself."""
    sha256: Annotated[str, Field(pattern=HASH_PATTERN, max_length=64)] | None = None
    """The hash itself, in hexadecimal digits; `penstock tenant new-key` prints one."""


class Limits(ApiModel):
    """Upper bounds per tenant; an absent one is no bound."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests admitted in a minute."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Prompt and output tokens in a minute."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests in flight at once."""


class TenantSpec(ApiModel):
    """What a tenant may do."""

    api_keys: Annotated[list[ApiKey], Field(min_length=1, max_length=2)]
    """Hashed API keys; two at once allow rotation without a gap."""
    models: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=256)] = []
    """Served names that the tenant may use; empty means all."""
    request_classes: Annotated[list[DnsLabel], Field(max_length=16)] = []
    """Request classes that the tenant may ask for; empty means the default class only."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share inside a priority band while requests queue."""
    limits: Limits = Limits()
    """Upper bounds."""
    cache_isolation: bool = True
    """Salt the prefix cache, so that no other tenant can measure what this one sent."""
    debug: bool = False
    """Let the tenant see the status page, and the debug headers where they are switched on."""


class TenantStatus(ApiModel):
    """Observed state of a tenant."""

    observed_generation: int | None = None
    """The generation that this status describes."""
    conditions: Annotated[
        list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))
    ] = []
    """metav1 conditions."""


class Tenant(ApiModel):
    """A caller of the gateway."""

    api_version: Literal["penstock.dev/v1alpha1"] = "penstock.dev/v1alpha1"
    kind: Literal["Tenant"] = "Tenant"
    metadata: ObjectMeta
    spec: TenantSpec
    """What the tenant may do."""
    status: TenantStatus | None = None
    """Observed state."""
