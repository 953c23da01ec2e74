"""The CustomResourceDefinitions of `penstock.dev/v1alpha1`, made from the API types."""

from dataclasses import dataclass
from typing import Any

from penstock_contract.api import ApiModel, EnginePool, InferenceDeployment, Tenant
from penstock_contract.labels import GROUP, VERSION
from penstock_contract.schema import Schema, structural


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; wide ones appear with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False

    def body(self) -> dict[str, Any]:
        """Return the column as a CRD writes it."""
        column = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return {**column, "priority": 1} if self.wide else column


@dataclass(frozen=True)
class Resource:
    """One kind and how it is presented."""

    model: type[ApiModel]
    plural: str
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    scalable: bool = False

    @property
    def kind(self) -> str:
        """The kind's name."""
        return self.model.__name__


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_READY = ".status.conditions[?(@.type=='Ready')]"

RESOURCES = (
    Resource(
        InferenceDeployment,
        "inferencedeployments",
        ("infd",),
        (
            Column("Model", ".spec.model.uri"),
            Column("Ready", f"{_READY}.status"),
            Column("Pools", ".status.poolsSummary"),
            Column("Reason", f"{_READY}.reason"),
            _AGE,
            Column("URL", ".status.url", wide=True),
        ),
    ),
    Resource(
        EnginePool,
        "enginepools",
        ("epool",),
        (
            Column("Deployment", ".spec.deployment"),
            Column("Role", ".spec.role"),
            Column("Desired", ".spec.replicas", "integer"),
            Column("Ready", ".status.readyReplicas", "integer"),
            _AGE,
        ),
        scalable=True,
    ),
    Resource(
        Tenant,
        "tenants",
        (),
        (Column("Weight", ".spec.weight", "integer"), _AGE),
    ),
)


def crd(resource: Resource) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    subresources: dict[str, Any] = {"status": {}}
    if resource.scalable:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    names: dict[str, Any] = {
        "kind": resource.kind,
        "listKind": f"{resource.kind}List",
        "plural": resource.plural,
        "singular": resource.kind.lower(),
        "categories": ["penstock"],
    }
    if resource.short_names:
        names["shortNames"] = list(resource.short_names)
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.body() for column in resource.columns],
        "subresources": subresources,
        "schema": {"openAPIV3Schema": schema(resource)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def schema(resource: Resource) -> Schema:
    """Return the structural schema of a kind; metadata belongs to Kubernetes and is left to it."""
    raw = resource.model.model_json_schema(by_alias=True)
    raw["properties"]["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind"):
        raw["properties"][name] = {"type": "string"}
    found = structural(raw)
    found["required"] = ["spec"]
    return found
