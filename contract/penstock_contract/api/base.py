"""What all API types share: naming, strictness, scalar formats, conditions, CEL rules.

A CRD has no floats and no timedelta: decimals, durations and quantities travel as strings with a
pattern, and are turned into numbers where they are used. Every list and string that a CEL rule
walks over is bounded, because the API server refuses a CRD whose worst-case rule cost is too high.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from penstock_contract.api.patterns import DECIMAL, DNS_LABEL, DURATION, QUANTILE, QUANTITY


class ApiModel(BaseModel):
    """An object of the API: camelCase outside, snake_case inside; unknown fields are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> dict[str, Any]:
        """Return the object as the API server would store it: camelCase, defaults in, no nulls."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rules(*cel: tuple[str, str]) -> ConfigDict:
    """Return a model config that carries CEL rules, given as (expression, message) pairs.

    The API server evaluates them (1.25 and later); the operator and `penstock up` evaluate the same
    text, so a rule holds everywhere and is written once.
    """
    found: list[Any] = [{"rule": rule, "message": message} for rule, message in cel]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": found})


def list_map(key: str) -> Callable[[dict[str, Any]], None]:
    """Return a schema hook that makes a list a map by `key`, so appliers can own single items."""

    def mark(schema: dict[str, Any]) -> None:
        schema["x-kubernetes-list-type"] = "map"
        schema["x-kubernetes-list-map-keys"] = [key]

    return mark


Duration = Annotated[str, Field(pattern=DURATION, max_length=32)]
"""Like `30s`, `1m30s`, `250ms`."""
Decimal = Annotated[str, Field(pattern=DECIMAL, max_length=32)]
"""A non-negative decimal in a string, like `0.9`."""
Quantile = Annotated[str, Field(pattern=QUANTILE, max_length=8)]
"""A number from 0 up to but excluding 1, in a string."""
DnsLabel = Annotated[str, Field(pattern=DNS_LABEL, min_length=1, max_length=63)]
"""A DNS-1123 label."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FACTORS: Final = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def seconds(duration: str) -> float:
    """Return a duration string in seconds; ValueError when it is not one."""
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"{duration!r} is not a duration like 30s, 1m30s or 250ms")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", duration)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def quantity(value: str | int) -> float:
    """Return a Kubernetes quantity as a number; ValueError when it is not one."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", str(value))
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{value!r} is not a quantity like 500m, 8Gi or 2")
    return float(match[1]) * _FACTORS[match[2]]


def _checked_quantity(value: str | int) -> str | int:
    quantity(value)
    return value


Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY, "minimum": 0},
        union_mode="left_to_right",
    ),
    AfterValidator(_checked_quantity),
]
"""A Kubernetes quantity, like `500m`, `8Gi` or `1`."""


class ObjectMeta(ApiModel):
    """The part of Kubernetes' metadata that Penstock reads; the rest is carried along."""

    model_config = ConfigDict(extra="allow")

    name: DnsLabel
    namespace: str = "default"
    uid: str | None = None
    generation: int = 1
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ConditionStatus(StrEnum):
    """metav1.ConditionStatus."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """metav1.Condition: one aspect of the state, with a reason that is part of the contract."""

    type: Annotated[str, Field(max_length=316)]
    """Which aspect, e.g. `Ready`."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[
        str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)
    ]
    """Enumerated, for machines."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """For people: what is wrong and what to do."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The spec's generation that this was computed from."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When `status` last changed."""
