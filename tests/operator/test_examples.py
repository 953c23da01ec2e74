"""Every example is valid, is planned, and makes objects that a strict cluster takes."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pod_security import violations

from penstock_contract.api import InferenceDeployment
from penstock_contract.crd import RESOURCES, schema
from penstock_contract.labels import API_VERSION
from penstock_operator.manifests import Settings, deployment_objects, pool_objects, workload
from penstock_operator.plan import plan
from penstock_operator.validation import parse

FOLDER = Path(__file__).parents[2] / "examples"
GATEWAY_API = "gateway.networking.k8s.io/v1"
"""Not one of Kubernetes' own, whose schemas are at hand."""
CLUSTER = sorted((FOLDER / "kubernetes").glob("*.yaml"))


def documents(*files: Path) -> list[Any]:
    """Return what files hold, as test parameters."""
    return [
        pytest.param(document, id=f"{path.relative_to(FOLDER)}:{document['metadata']['name']}")
        for path in files
        for document in yaml.safe_load_all(path.read_text())
    ]


EVERYTHING = documents(*sorted(FOLDER.glob("*.yaml")), *CLUSTER)
OURS = [p for p in EVERYTHING if p.values[0]["apiVersion"] == API_VERSION]
THEIRS = [p for p in EVERYTHING if p.values[0]["apiVersion"] not in (API_VERSION, GATEWAY_API)]
IN_A_CLUSTER = [p for p in documents(*CLUSTER) if p.values[0]["kind"] == "InferenceDeployment"]
SETTINGS = Settings()


@pytest.mark.parametrize("document", OURS)
def test_the_schema_and_the_rules_accept_it(document: dict[str, Any]) -> None:
    resource = next(r for r in RESOURCES if r.kind == document["kind"])
    jsonschema.validate(document, schema(resource))
    parse(document)


@pytest.mark.parametrize("document", THEIRS)
def test_kubernetes_knows_every_field(document: dict[str, Any]) -> None:
    claims = document["apiVersion"] == "resource.k8s.io/v1"
    kubernetes_validate.validate(document, "1.34" if claims else "1.31", strict=True)


@pytest.mark.parametrize("document", IN_A_CLUSTER)
def test_what_is_planned_for_it_is_valid_and_restricted(document: dict[str, Any]) -> None:
    infd = parse(document)
    assert isinstance(infd, InferenceDeployment)
    found = [deployment_objects(infd, SETTINGS)["Service"]]
    for pool in plan(infd, {}).pools:
        found += pool_objects(pool, SETTINGS).values()
        workers = workload(infd, pool, SETTINGS, pool.spec.replicas)
        assert violations(workers["spec"]["template"]["spec"]) == []
        found.append(workers)
    for one in found:
        kubernetes_validate.validate(one, "1.31", strict=True)


def test_all_examples_can_be_applied_side_by_side() -> None:
    applied = [(p.values[0]["kind"], p.values[0]["metadata"]["name"]) for p in documents(*CLUSTER)]
    assert len(set(applied)) == len(applied)
    deployments = [parse(p.values[0]) for p in IN_A_CLUSTER]
    models = [d.served_name for d in deployments if isinstance(d, InferenceDeployment)]
    assert len(set(models)) == len(models) == len(IN_A_CLUSTER)


def test_the_table_names_every_example() -> None:
    shown = re.findall(r"\]\(([\w/.-]+\.yaml)\)", (FOLDER / "README.md").read_text())
    there = [str(path.relative_to(FOLDER)) for path in (*FOLDER.glob("*.yaml"), *CLUSTER)]
    assert sorted(shown) == sorted(there)
