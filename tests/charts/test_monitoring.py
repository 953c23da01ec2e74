"""Dashboard and alerts ask for metrics that exist, with labels that these have."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from chart_values import EVERYTHING
from helm import CHART, of_kind, render

from penstock_contract.metrics import ALL, Kind

_SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
EXPORTED = {
    metric.exported_name + suffix: metric
    for metric in ALL
    for suffix in _SUFFIXES.get(metric.kind, ("",))
}
Source = Callable[[], Iterator[str]]
_ADDED_BY_PROMETHEUS = {"le", "pod", "namespace", "job", "instance"}


def dashboard() -> Iterator[str]:
    for panel in json.loads((CHART / "dashboards" / "penstock.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def alerts() -> Iterator[str]:
    (rules,) = of_kind(render(EVERYTHING), "PrometheusRule")
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:vllm:|penstock_)[a-z0-9_]+", expression))


@pytest.mark.parametrize("source", [dashboard, alerts])
def test_every_expression_names_exported_metrics_and_their_labels(source: Source) -> None:
    expressions = [*source()]
    assert expressions
    for expression in expressions:
        check(expression)


def check(expression: str) -> None:
    found = names(expression)
    assert found
    assert found <= EXPORTED.keys()
    known = {label for name in found for label in EXPORTED[name].labels} | _ADDED_BY_PROMETHEUS
    grouped = [label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")]
    matched = re.findall(r"([a-z_]+)=~?\"", expression)
    assert {label.strip() for label in [*grouped, *matched]} <= known


def test_the_dashboards_variable_is_a_label_of_a_metric() -> None:
    variables = json.loads((CHART / "dashboards" / "penstock.json").read_text())["templating"]
    (query,) = [v["query"]["query"] for v in variables["list"] if v["type"] == "query"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert asked is not None
    metric, label = asked.groups()
    assert label in EXPORTED[metric].labels
