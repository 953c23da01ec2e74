"""Which model an InferenceDeployment serves, where it comes from, and what clients call it."""

from typing import Annotated

from pydantic import Field

from penstock_contract.api.base import (
    ApiModel,
    list_map,
    rules,
)
from penstock_contract.api.patterns import DNS_NAME, MODEL_URI, SERVED_NAME

ModelUri = Annotated[
    str,
    Field(pattern=MODEL_URI, max_length=1024, examples=["hf://Qwen/Qwen3-8B"]),
]
ServedName = Annotated[str, Field(pattern=SERVED_NAME, max_length=253)]

ServiceAccountName = Annotated[str, Field(pattern=DNS_NAME, max_length=253)]


class LocalRef(ApiModel):
    """A reference by name inside the namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the object."""


class CacheRef(ApiModel):
    """Where downloaded models are kept between pods."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253)]
    """A PersistentVolumeClaim."""


class Adapter(ApiModel):
    """A LoRA adapter, served under its own name."""

    name: ServedName
    """Name that clients send as `model`."""
    uri: ModelUri
    """Where the adapter comes from, as for a model."""
    revision: Annotated[str, Field(max_length=253)] = "main"
    """Branch, tag or commit."""


class Model(ApiModel):
    """Which model, and what clients call it."""

    model_config = rules(
        (
            "self.adapters.all(a, self.adapters.exists_one(b, b.name == a.name))",
            "adapter names must be unique",
        ),
        (
            (
                "self.adapters.all(a, !(a.name in self.aliases) "
                "&& (!has(self.name) || a.name != self.name))"
            ),
            "an adapter must not have a name of its model",
        ),
    )

    uri: ModelUri
    """`hf://org/name`, `pvc://claim/path`, `s3://bucket/path`, `gs://bucket/path`, `oci://image`,
    `file://path`."""
    revision: Annotated[str, Field(max_length=253)] = "main"
    """Branch, tag or commit; part of the rollout hash."""
    name: ServedName | None = None
    """Served name; default: the object's name."""
    aliases: Annotated[list[ServedName], Field(max_length=16)] = []
    """Other names for the same model."""
    secret_ref: LocalRef | None = None
    """Secret with credentials of the source: `HF_TOKEN` (and `HF_ENDPOINT`), or
    `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`, `AWS_REGION`,
    `AWS_ENDPOINT_URL`)."""
    service_account_name: ServiceAccountName | None = None
    """ServiceAccount that workers run as, for an identity in the cloud that keeps the model;
    default: one of each pool's own, without any. Kubernetes' own token is mounted in no case."""
    cache: CacheRef | None = None
    """Where downloads are kept."""
    adapters: Annotated[
        list[Adapter], Field(max_length=256, json_schema_extra=list_map("name"))
    ] = []
    """LoRA adapters, each a model of its own for clients. Those from `hf://`, `s3://` and `gs://`
    come and go while workers serve; a change of others is a rollout."""
