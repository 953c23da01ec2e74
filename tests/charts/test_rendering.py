"""What the chart renders is valid Kubernetes, restricted, and as the values say."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from chart_values import CASES, EVERYTHING
from helm import CHART, NAMESPACE, helm, of_kind, render
from pod_security import violations

from penstock_contract.crd import RESOURCES, crd
from penstock_contract.worker_token import ENVIRONMENT

KUBERNETES = "1.31"
OF_OTHERS = {"PodMonitor", "PrometheusRule", "HTTPRoute", "InferencePool"}
cases = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod templates by the name of their Deployment."""
    return {
        found["metadata"]["name"]: found["spec"]["template"]
        for found in of_kind(objects, "Deployment")
    }


@cases
def test_helm_lint_finds_nothing(values: dict[str, Any]) -> None:
    done = helm("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@cases
def test_every_object_meets_the_published_schemas(values: dict[str, Any]) -> None:
    for found in render(values):
        if found["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)


@cases
def test_every_namespaced_object_names_its_namespace(values: dict[str, Any]) -> None:
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    tenants = values.get("gateway", {}).get("tenants", {}).get("namespace", NAMESPACE)
    pools = values.get("endpointPicker", {}).get("pools", [])
    allowed = {NAMESPACE, tenants, *values.get("watchNamespaces", [])}
    allowed |= {pool["namespace"] for pool in pools}
    for found in render(values):
        if found["kind"] not in cluster_wide:
            assert found["metadata"]["namespace"] in allowed


@cases
def test_pods_are_restricted_and_limited(values: dict[str, Any]) -> None:
    found = pods(render(values))
    batches = {"penstock-batches"} if values.get("batches") else set()
    pools = values.get("endpointPicker", {}).get("pools", [])
    pickers = {f"{pool['deployment']}-endpoint-picker" for pool in pools}
    assert set(found) == {"penstock-operator", "penstock-gateway"} | batches | pickers
    for name, template in found.items():
        # The others watch the API server, so they alone bear a token.
        token = ["a service-account token is mounted"] if name not in batches else []
        assert violations(template["spec"]) == token
        (container,) = template["spec"]["containers"]
        for key in ("requests", "limits"):
            assert container["resources"][key].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("keep", [True, False])
def test_the_api_types_are_those_of_the_contract_and_kept_unless_told_otherwise(keep: bool) -> None:
    found = of_kind(render({"crds": {"keep": keep}}), "CustomResourceDefinition")
    for document in found:
        annotations = document["metadata"].pop("annotations", {})
        assert annotations == ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert found == [crd(resource) for resource in RESOURCES]
    assert not of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition")


def test_a_server_without_cel_gets_the_same_types_without_its_rules() -> None:
    def without_rules(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: without_rules(v) for k, v in node.items() if k != "x-kubernetes-validations"}
        return [without_rules(item) for item in node] if isinstance(node, list) else node

    found = of_kind(
        render({"crds": {"keep": False}}, "--kube-version=1.20.0"), "CustomResourceDefinition"
    )
    assert found == [without_rules(crd(resource)) for resource in RESOURCES]


def test_a_gateway_gets_the_time_that_its_streams_need() -> None:
    values = {"gateway": {"drainSeconds": 300, "preStopSeconds": 7}}
    spec = pods(render(values))["penstock-gateway"]["spec"]
    (container,) = spec["containers"]
    assert "--drain-timeout=300s" in container["args"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert spec["terminationGracePeriodSeconds"] > 307


def test_a_gateway_has_one_process_unless_told_otherwise() -> None:
    def flags(values: dict[str, Any]) -> list[str]:
        (container,) = pods(render(values))["penstock-gateway"]["spec"]["containers"]
        return [flag for flag in container["args"] if flag.startswith("--processes")]

    assert flags({}) == []
    assert flags({"gateway": {"processes": 3}}) == ["--processes=3"]


def test_a_gateway_that_is_not_ready_holds_up_no_nodes_drain_where_that_can_be_said() -> None:
    def policy(version: str) -> Any:
        (budget,) = of_kind(render({}, f"--kube-version={version}"), "PodDisruptionBudget")
        kubernetes_validate.validate(budget, KUBERNETES, strict=True)
        return budget["spec"].get("unhealthyPodEvictionPolicy")

    assert policy("1.31.0") == "AlwaysAllow"
    assert policy("1.26.0") is None


def test_an_autoscaled_gateway_has_no_fixed_size() -> None:
    fixed = {d["metadata"]["name"]: d["spec"] for d in of_kind(render(), "Deployment")}
    assert fixed["penstock-gateway"]["replicas"] == 2
    scaled = render({"gateway": {"autoscaling": {"enabled": True}}})
    (scaler,) = of_kind(scaled, "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]["name"]
    (deployment,) = [d for d in of_kind(scaled, "Deployment") if d["metadata"]["name"] == target]
    assert "replicas" not in deployment["spec"]


def test_images_are_the_releases_unless_named() -> None:
    def images(values: dict[str, Any]) -> dict[str, str]:
        return {
            name: pod["spec"]["containers"][0]["image"]
            for name, pod in pods(render(values)).items()
        }

    version = helm("show", "chart", str(CHART)).stdout.split("appVersion: ")[1].split("\n")[0]
    assert images({})["penstock-gateway"] == f"ghcr.io/penstock-dev/penstock-gateway:{version}"
    found = images(EVERYTHING)
    assert found["penstock-operator"] == "registry.example/x/penstock-operator:1.2.3"
    assert found["penstock-gateway"] == EVERYTHING["gateway"]["image"]


def test_workers_on_gpus_have_an_image_of_their_own() -> None:
    def argument(values: dict[str, Any]) -> str:
        arguments = pods(render(values))["penstock-operator"]["spec"]["containers"][0]["args"]
        (found,) = [text for text in arguments if text.startswith("--worker-gpu-image=")]
        return str(found).partition("=")[2]

    image = {"registry": "registry.example/x", "tag": "1.2.3"}
    assert argument({"image": image}) == "registry.example/x/penstock-worker-gpu:1.2.3"
    assert argument({"worker": {"gpuImage": "other/gpu:4"}}) == "other/gpu:4"


def test_secrets_of_a_private_registry_are_for_workers_too() -> None:
    found = pods(render({"image": {"pullSecrets": [{"name": "pull"}]}}))
    for pod in found.values():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    operator = found["penstock-operator"]["spec"]["containers"][0]
    assert "--image-pull-secret=pull" in operator["args"]


def test_pods_are_placed_and_given_volumes_as_the_values_say() -> None:
    asked = EVERYTHING["gateway"]
    spec = pods(render(EVERYTHING))["penstock-gateway"]["spec"]
    assert spec["affinity"] == asked["affinity"]
    assert spec["topologySpreadConstraints"] == asked["topologySpreadConstraints"]
    assert {volume["name"] for volume in spec["volumes"]} == {"tmp", "ca"}
    assert asked["extraVolumeMounts"][0] in spec["containers"][0]["volumeMounts"]


def test_gateway_and_operator_show_the_token_that_workers_ask_for() -> None:
    key = {"secretKeyRef": {"name": "workers", "key": "token"}}
    shown = {"name": ENVIRONMENT, "valueFrom": key}
    found = pods(render({"worker": {"tokenSecret": "workers"}}))
    for pod in found.values():
        assert shown in pod["spec"]["containers"][0]["env"]
    operator = found["penstock-operator"]["spec"]["containers"][0]
    assert "--worker-token-secret=workers" in operator["args"]
    for pod in pods(render({})).values():
        assert "env" not in pod["spec"]["containers"][0]


def test_the_world_reaches_the_api_and_nothing_else_of_the_gateway() -> None:
    objects = render(EVERYTHING)
    found = {s["metadata"]["name"]: s for s in of_kind(objects, "Service")}
    service = found["penstock-gateway"]
    others = [s for s in found.values() if s is not service]
    assert all(s["spec"].get("type", "ClusterIP") == "ClusterIP" for s in others)
    (port,) = service["spec"]["ports"]
    (ingress,) = of_kind(objects, "Ingress")
    rules = ingress["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ingress["spec"]["tls"][0]["hosts"]
    for rule in rules:
        (path,) = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/v1", "Prefix")
        assert path["backend"]["service"]["name"] == service["metadata"]["name"]
        assert path["backend"]["service"]["port"]["name"] == port["name"]

    (route,) = of_kind(objects, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
    assert rule["timeouts"] == {"request": "0s"}, "a stream may last"


def test_selectors_find_their_own_pods_and_no_others() -> None:
    objects = render()
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    selectors = {
        "penstock-gateway": [
            of_kind(objects, "Service")[0]["spec"]["selector"],
            of_kind(objects, "PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"],
        ]
    }
    for found in of_kind(objects, "Deployment"):
        match = found["spec"]["selector"]["matchLabels"]
        selectors.setdefault(found["metadata"]["name"], []).append(match)
    for name, own in selectors.items():
        for selector in own:
            chosen = {n for n, found in labels.items() if selector.items() <= found.items()}
            assert chosen == {name}


def test_the_operators_gateway_selector_finds_the_gateways() -> None:
    found = pods(render())
    (container,) = found["penstock-operator"]["spec"]["containers"]
    (flag,) = [a for a in container["args"] if a.startswith("--gateway-selector=")]
    terms = dict(term.split("=") for term in flag.partition("=")[2].split(","))
    assert terms.items() <= found["penstock-gateway"]["metadata"]["labels"].items()


@cases
def test_every_flag_is_one_that_the_command_has(values: dict[str, Any]) -> None:
    for name, template in pods(render(values)).items():
        if name.endswith("-endpoint-picker"):
            continue  # test_endpoint_picker parses its flags: its command is of an extra
        (container,) = template["spec"]["containers"]
        command = Path(sys.executable).with_name(name)
        told = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
        known = set(re.findall(r"--[a-z-]+", told.stdout))
        assert {argument.partition("=")[0] for argument in container["args"]} <= known


def test_the_dashboard_is_the_file_as_it_is() -> None:
    (config,) = of_kind(render(EVERYTHING), "ConfigMap")
    text = (CHART / "dashboards" / "penstock.json").read_text()
    assert json.loads(config["data"]["penstock.json"]) == json.loads(text)
