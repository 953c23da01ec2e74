"""What a pool's pods get beside what Penstock makes of them.

Where a part of a pod is taken as Kubernetes has it, only what Penstock itself reads is declared
here, and the rest is kept as it is: the API server checks it when the pods are made.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from penstock_contract.api.base import ApiModel, DnsLabel, list_map, rules
from penstock_contract.api.model import LocalRef
from penstock_contract.api.patterns import MOUNT_PATH

MountPath = Annotated[str, Field(pattern=MOUNT_PATH, max_length=1024)]


def _without_nulls(found: Any) -> Any:
    """Return a value without what is null, which an API server need not keep."""
    if isinstance(found, dict):
        return {k: _without_nulls(v) for k, v in found.items() if v is not None}
    return [_without_nulls(one) for one in found] if isinstance(found, list) else found


FreeForm = Annotated[dict[str, Any], BeforeValidator(_without_nulls)]
"""A part of a pod of which nothing is declared here."""


class _PartOfAPod(ApiModel):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, found: Any) -> Any:
        return _without_nulls(found)


class Volume(_PartOfAPod):
    """A volume, as in a pod."""

    name: DnsLabel
    """What mounts call it."""


class VolumeMount(_PartOfAPod):
    """Where a container sees a volume, as in a pod."""

    name: DnsLabel
    """A volume of `volumes`, or `tmp`, which is the worker's `/tmp`."""
    mount_path: MountPath
    """Where the container sees it."""


class ContainerPort(_PartOfAPod):
    """A port that a container listens on, as in a pod."""

    container_port: Annotated[int, Field(ge=1, le=65535)]
    """All containers of a pod share its ports."""
    name: Annotated[str, Field(min_length=1, max_length=15)] | None = None
    """For Services and monitors."""


class Container(_PartOfAPod):
    """A container of your own, as in a pod. What its `securityContext` does not say is as for the
    worker, but for the root file system, which it may write to."""

    name: DnsLabel
    """Unique in the pod."""
    image: Annotated[str, Field(min_length=1, max_length=1024)]
    """Where it is pulled from."""
    ports: Annotated[list[ContainerPort], Field(max_length=16)] = []
    """What it listens on."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = []
    """What it sees of the pod's volumes."""


class OptionalRef(ApiModel):
    """A Secret or ConfigMap."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the object."""
    optional: bool = False
    """Whether pods start without it."""


class KeyRef(ApiModel):
    """A key of a Secret or ConfigMap."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the object."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Which of its values."""
    optional: bool = False
    """Whether pods start without it."""


class FieldRef(ApiModel):
    """A field of the pod."""

    field_path: Annotated[str, Field(min_length=1, max_length=253)]
    """Like `status.podIP`, `spec.nodeName` or `metadata.labels['app']`."""


class EnvFrom(ApiModel):
    """All values of a Secret or ConfigMap."""

    model_config = rules(
        (
            "has(self.secretRef) != has(self.configMapRef)",
            "set exactly one of secretRef and configMapRef",
        )
    )

    prefix: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """What stands before each name."""
    secret_ref: OptionalRef | None = None
    """A Secret."""
    config_map_ref: OptionalRef | None = None
    """A ConfigMap."""


class EnvSource(ApiModel):
    """Where the value of an environment variable comes from."""

    model_config = rules(
        (
            (
                "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef)]"
                ".exists_one(given, given)"
            ),
            "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
        )
    )

    secret_key_ref: KeyRef | None = None
    """A value of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A value of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod."""


class ResourceClaim(ApiModel):
    """Devices that a pod gets by dynamic resource allocation (DRA)."""

    model_config = rules(
        (
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            "set exactly one of resourceClaimName and resourceClaimTemplateName",
        )
    )

    name: DnsLabel
    """What `resources.claims` calls it."""
    resource_claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A ResourceClaim, which all pods of the pool share."""
    resource_claim_template_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A ResourceClaimTemplate, of which each pod gets a claim of its own."""


Env = Annotated[dict[str, str], Field(max_length=64)]
Containers = Annotated[list[Container], Field(max_length=8, json_schema_extra=list_map("name"))]


class PodTemplate(ApiModel):
    """Overlay on the generated pod template."""

    labels: Annotated[dict[str, str], Field(max_length=32)] = {}
    """Extra pod labels."""
    annotations: Annotated[dict[str, str], Field(max_length=32)] = {}
    """Extra pod annotations."""
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = {}
    """Nodes that may run the pool."""
    tolerations: Annotated[list[dict[str, Any]], Field(max_length=32)] = []
    """Taints that the pool tolerates."""
    affinity: dict[str, Any] | None = None
    """Pod affinity, as in a pod."""
    topology_spread_constraints: Annotated[list[FreeForm], Field(max_length=8)] = []
    """As in a pod; one without a `labelSelector` spreads the workers of the pool's revision."""
    scheduler_name: Annotated[str, Field(max_length=253)] | None = None
    """Who finds nodes for the pods, in place of Kubernetes' own scheduler."""
    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Scheduling priority."""
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Container runtime."""
    host_network: bool = False
    """Whether pods use their node's network in place of one of their own. NetworkPolicies do not
    hold for them, and a node has room for one of them, as they share its ports."""
    image_pull_secrets: Annotated[list[LocalRef], Field(max_length=8)] = []
    """Secrets for a private registry, in place of those that the installation names."""
    env: Env = {}
    """Extra environment variables of the worker, and of what downloads its model."""
    env_value_from: Annotated[dict[str, EnvSource], Field(max_length=64)] = {}
    """More of them, by name, whose values are read from Secrets, ConfigMaps or the pod itself."""
    env_from: Annotated[list[EnvFrom], Field(max_length=16)] = []
    """Secrets and ConfigMaps all of whose values become environment variables of these."""
    volumes: Annotated[list[Volume], Field(max_length=32, json_schema_extra=list_map("name"))] = []
    """Extra volumes, as in a pod."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=32)] = []
    """Where the worker, and what downloads its model, see them."""
    init_containers: Containers = []
    """Containers that run to their end, one after the other, before the model is downloaded."""
    sidecars: Containers = []
    """Containers that run beside the worker: from before its start until after its end, where
    Kubernetes knows such (1.29 and later)."""
    resource_claims: Annotated[
        list[ResourceClaim], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = []
    """Devices by dynamic resource allocation, for `resources.claims`."""
    security_context: FreeForm | None = None
    """Of the pod, merged into the default, which meets the `restricted` Pod Security Standard."""
    container_security_context: FreeForm | None = None
    """Of the worker's container, merged into its default in the same way."""
