"""The generated CRDs: up to date, valid Kubernetes, and as strict as the types.

The CEL rules are evaluated by a CEL implementation here; that an API server takes the whole CRD is
shown by the cluster tests.
"""

import json
from pathlib import Path
from typing import Any

import cel
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import create_model

from penstock_contract.api import InferenceDeployment
from penstock_contract.crd import RESOURCES, crd, schema
from penstock_contract.generate import generated
from penstock_contract.schema import Untranslatable, structural

ROOT = Path(__file__).parents[2]


def rules_in(found: dict[str, Any]) -> list[str]:
    """Return every CEL rule in a schema."""
    own = [rule["rule"] for rule in found.get("x-kubernetes-validations", [])]
    return own + [rule for part in parts(found) for rule in rules_in(part)]


def parts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas directly inside a schema."""
    items = [found["items"]] if "items" in found else []
    return [*found.get("properties", {}).values(), *items]


@pytest.mark.parametrize("path", generated())
def test_generated_files_are_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == generated()[path], "run `make generate`"


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_crds_are_valid_kubernetes(resource: Any) -> None:
    kubernetes_validate.validate(crd(resource), "1.31", strict=True)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_schemas_are_structural(resource: Any) -> None:
    def check(found: dict[str, Any], path: str) -> None:
        assert not {"$ref", "allOf", "oneOf", "not", "const"} & found.keys(), path
        assert "null" not in json.dumps(found.get("default", 0)), path
        free = found.get("x-kubernetes-preserve-unknown-fields")
        typed = "type" in found or found.get("x-kubernetes-int-or-string")
        assert typed or free, path
        assert not ("properties" in found and "additionalProperties" in found), path
        for name, inner in found.get("properties", {}).items():
            assert not (path == "" and name not in ROOT_FIELDS), name
            check(inner, f"{path}.{name}")
        if "items" in found:
            check(found["items"], f"{path}[]")

    check(schema(resource), "")


ROOT_FIELDS = {"apiVersion", "kind", "metadata", "spec", "status"}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_every_cel_rule_compiles(resource: Any) -> None:
    for rule in rules_in(schema(resource)):
        cel.compile(rule)


def test_list_maps_name_a_required_key() -> None:
    def check(found: dict[str, Any]) -> int:
        keys = found.get("x-kubernetes-list-map-keys", [])
        for key in keys:
            assert key in found["items"]["required"]
        return len(keys) + sum(check(part) for part in parts(found))

    assert sum(check(schema(resource)) for resource in RESOURCES) >= 4


def test_defaults_satisfy_their_own_schema() -> None:
    def check(found: dict[str, Any]) -> None:
        if "default" in found and "x-kubernetes-int-or-string" not in found:
            Draft202012Validator(found).validate(found["default"])
        for part in parts(found):
            check(part)

    for resource in RESOURCES:
        check(schema(resource))


def test_the_schema_accepts_what_the_types_write() -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    infd = InferenceDeployment.model_validate(yaml.safe_load(text))
    Draft202012Validator(schema(RESOURCES[0])).validate(infd.to_json())


@pytest.mark.parametrize("annotation", [int | str, tuple[int, str], dict[str, int] | int])
def test_what_a_structural_schema_cannot_say_is_refused(annotation: Any) -> None:
    model = create_model("M", field=(annotation, ...))
    with pytest.raises(Untranslatable, match="field"):
        structural(model.model_json_schema())
