"""Values are described, closed, and refused when they are not known."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from helm import CHART, ROOT, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every property of the schema with its path."""
    for name, found in schema.get("properties", {}).items():
        yield f"{path}.{name}", found
        yield from schemas(found, f"{path}.{name}")
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")


def documented(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each key of values.yaml, and whether a comment stands above it."""
    above = False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            above = True
        elif ":" in stripped:
            yield stripped.split(":")[0], above
            above = False


def test_the_defaults_meet_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def test_every_value_has_a_default_and_a_description() -> None:
    for path, schema in [*schemas(SCHEMA)]:
        assert schema.get("description", "").endswith("."), path
        if "[]" in path or path.startswith(".global"):
            continue
        value = VALUES
        for key in path.strip(".").split("."):
            assert key in value, path
            value = value[key]


def test_every_object_is_closed() -> None:
    found = [("", SCHEMA), *schemas(SCHEMA)]
    for name, definition in SCHEMA["definitions"].items():
        found += [(f"#{name}", definition), *schemas(definition, f"#{name}")]
    open_ones = {
        path
        for path, schema in found
        if schema.get("type") == "object" and schema.get("additionalProperties", True) is True
    }
    # What Helm itself passes down, and Kubernetes' own EnvVarSource, volumes, terms and selectors.
    terms = {f"#affinity.{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    ours = {".global", "#env.valueFrom", "#volume", "#spread.labelSelector", *terms}
    assert open_ones == ours


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"gateway": {"replica": 3}},
        {"gateway": {"replicas": "3"}},
        {"gateway": {"autoscaling": {"enable": True}}},
        {"operator": {"logLevel": "verbose"}},
        {"operator": {"resources": {"limit": {}}}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"networkPolicy": {"clients": [{"pods": {}}]}},
        {"watchNamespaces": ["Team A"]},
        {"metrics": {"serviceMonitor": {}}},
        {"gateway": {"affinity": {"antiAffinity": {}}}},
        {"gateway": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}},
        {"operator": {"extraVolumeMounts": [{"name": "ca", "path": "/etc/ca"}]}},
        {"operator": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}]}},
        {"gateway": {"ingress": {"enabled": True}}},
        {"gateway": {"ingress": {"enabled": True, "hosts": ["http://llm.example.com"]}}},
        {"gateway": {"httpRoute": {"enabled": True}}},
        {"gateway": {"httpRoute": {"enabled": True, "parentRefs": [{"namespace": "x"}]}}},
    ],
    ids=str,
)
def test_helm_refuses_values_that_mean_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="don't meet the specifications"):
        render(values)


def test_other_keys_than_the_obvious_ones_are_explained_where_they_stand() -> None:
    plain = {
        "crds", "image", "operator", "gateway", "worker", "networkPolicy", "metrics", "service",
        "autoscaling", "disruptionBudget", "resources", "requests", "port", "annotations",
        "minReplicas", "maxReplicas", "targetCPUUtilizationPercentage", "podLabels", "enabled",
        "podAnnotations", "priorityClassName", "nodeSelector", "tolerations", "interval",
        "extraVolumeMounts", "grafana_dashboard", "limits", "labels", "ingress", "httpRoute",
    }  # fmt: skip
    lines = documented((CHART / "values.yaml").read_text())
    assert [key for key, above in lines if not above and key not in plain] == []


def test_the_documentation_names_values_that_exist() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    rows = re.findall(r"^\| (`[a-z].*?) \|", text.split("## Values")[1].split("\n## ")[0], re.M)
    assert len(rows) > 5
    for row in rows:
        first, *others = re.findall(r"`([\w.]+)`", row)
        parent = first.rpartition(".")[0]
        for key in (first, *(parent + other for other in others)):
            value = VALUES
            for part in key.split("."):
                assert part in value, key
                value = value[part]
