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


OLD_NAME = r"vllm:(gpu_\w+|time_per_output_token_seconds)"
OFF_PANELS = {
    OLD_NAME: "of another metric",
    r"vllm:(time_to_first_token|e2e_request_latency|request_\w+)_\w+": "clients see the gateway's",
    r"vllm:request_success_total": "clients see the gateway's outcomes",
    r"vllm:(prompt_tokens_cached|spec_decode_num_drafts|\w+_per_pos)_total": "parts of others",
    r"vllm:(iteration_tokens_total|cache_config_info)": "to look into one worker",
    r"penstock_worker_step_\w+": "what the autoscaler fits its costs to",
    r"penstock_worker_(kv_blocks|bounded_steps_total|draining|load_seconds)": "of one worker",
    r"penstock_worker_ignored_fields_total": "to look into one client",
    r"penstock_worker_kv_(pull\w+_total|lease\w+)": "to look into hand-overs",
    r"penstock_worker_kv_tier_(?!hits|queries)\w+": "to look into a tier",
    r"penstock_gateway_arrivals_total": "all end as outcomes",
    r"penstock_gateway_spare_\w+": "the batch service's, which has panels of its own",
    r"penstock_gateway_(prompt_bytes|prefix_\w+)_total": "to look into routing",
    r"penstock_gateway_(request_duration|resume)_seconds": "depend on what is asked",
    r"penstock_gateway_(retries_denied|starved|ejections|prefills)_total": "to look into faults",
    r"penstock_gateway_(processes|request_body_bytes|name_conflicts|fleet_stale|tenants)": "states",
    r"penstock_gateway_tenant_(requests|refusals)_total": "to look into one tenant",
    r"penstock_batch_(ended_total|backoffs_total|files|stored_bytes)": "to look into batches",
    r"penstock_operator_queue": "seen in the duration of reconciles",
    r"penstock_autoscaler_(arrivals_per_second|decisions_total)": "`penstock explain` tells more",
}  # fmt: skip
"""What is on no panel and in no alert, and why."""


def test_every_metric_is_on_a_panel_or_in_an_alert_or_said_to_be_worth_neither() -> None:
    shown = {
        EXPORTED[name] for source in (dashboard, alerts) for e in source() for name in names(e)
    }
    hidden = [metric.exported_name for metric in ALL if metric not in shown]
    assert [name for name in hidden if not any(re.fullmatch(p, name) for p in OFF_PANELS)] == []
    assert [p for p in OFF_PANELS if not any(re.fullmatch(p, name) for name in hidden)] == []


def test_panels_have_names_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads((CHART / "dashboards" / "penstock.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in covered(panel["gridPos"])]
    assert len(set(cells)) == len(cells)


def covered(at: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(at["x"], at["x"] + at["w"]):
        for y in range(at["y"], at["y"] + at["h"]):
            yield x, y
