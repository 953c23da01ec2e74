"""Endpoint pickers: off unless asked for, one beside each InferencePool, reached by its gateway."""

import argparse
from typing import Any

import pytest
from helm import NAMESPACE, of_kind, render
from network import Pod, reaches

from penstock_contract.labels import COMPONENT, DEPLOYMENT
from penstock_gateway.endpoint_picker.cli import _parser
from penstock_operator.cluster.cli import _parser as operator_parser

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "istio"}}}
ON: dict[str, Any] = {
    "enabled": True,
    "pools": [{"namespace": "models", "deployment": "qwen"}],
    "gateways": [PEER],
}
WORKER = Pod("models", {COMPONENT: "worker", DEPLOYMENT: "qwen"}, {})
GATEWAY = Pod("istio", {"app": "gw"}, {"kubernetes.io/metadata.name": "istio"})
STRANGER = Pod("elsewhere", {"app": "x"}, {"kubernetes.io/metadata.name": "elsewhere"})


def picker(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [d for d in of_kind(objects, "Deployment") if d["metadata"]["namespace"] == "models"]
    return found


def flags(objects: list[dict[str, Any]]) -> argparse.Namespace:
    (container,) = picker(objects)["spec"]["template"]["spec"]["containers"]
    return _parser().parse_args(container["args"])


def test_nothing_of_it_is_there_unless_asked_for() -> None:
    objects = render()
    assert not of_kind(objects, "InferencePool")
    assert not [o for o in objects if "endpoint-picker" in o["metadata"]["name"]]
    assert "picker" not in str(of_kind(objects, "Deployment"))


@pytest.mark.parametrize("missing", ["pools", "gateways"])
def test_it_needs_pools_and_says_whose_gateway_may_come(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        render({"endpointPicker": {**ON, missing: []}})


def test_a_pool_names_the_workers_of_a_deployment_and_their_picker() -> None:
    objects = render({"endpointPicker": ON})
    (pool,) = of_kind(objects, "InferencePool")
    assert (pool["metadata"]["namespace"], pool["metadata"]["name"]) == ("models", "qwen")
    assert pool["spec"]["selector"]["matchLabels"].items() <= WORKER.labels.items()
    (service,) = [s for s in of_kind(objects, "Service") if s["metadata"]["namespace"] == "models"]
    named = pool["spec"]["endpointPickerRef"]
    assert named["name"] == service["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (named["port"]["number"], "http2")
    labels = picker(objects)["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert DEPLOYMENT not in labels  # or gateways would take it for a worker
    assert flags(objects).deployment == "models/qwen"


def test_it_speaks_tls_with_a_certificate_of_its_own_unless_given_one() -> None:
    found = flags(render({"endpointPicker": ON}))
    assert (found.secure_serving, found.cert_path) == (True, None)
    assert not flags(render({"endpointPicker": {**ON, "tls": {"enabled": False}}})).secure_serving
    objects = render({"endpointPicker": {**ON, "tls": {"secretName": "mine"}}})
    spec = picker(objects)["spec"]["template"]["spec"]
    assert {"name": "tls", "secret": {"secretName": "mine"}} in spec["volumes"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(flags(objects).cert_path) == mounts["tls"]


def test_it_knows_the_token_of_workers_and_no_other() -> None:
    values = {
        "endpointPicker": ON,
        "worker": {"tokenSecret": "workers"},
        "batches": {"enabled": True, "tokenSecret": "shared"},
    }
    (container,) = picker(render(values))["spec"]["template"]["spec"]["containers"]
    assert [variable["name"] for variable in container["env"]] == ["PENSTOCK_WORKER_TOKEN"]


def test_drains_of_nodes_leave_a_picker() -> None:
    objects = render({"endpointPicker": ON})
    (budget,) = [
        found
        for found in of_kind(objects, "PodDisruptionBudget")
        if found["metadata"]["namespace"] == "models"
    ]
    assert budget["spec"]["maxUnavailable"] == 1
    labels = picker(objects)["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_it_may_read_what_it_follows_in_its_namespace_only() -> None:
    objects = render({"endpointPicker": ON})
    (role,) = [r for r in of_kind(objects, "Role") if r["metadata"]["namespace"] == "models"]
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list", "watch"}
    assert "secrets" not in str(role["rules"])
    (binding,) = [
        b for b in of_kind(objects, "RoleBinding") if b["metadata"]["namespace"] == "models"
    ]
    account = picker(objects)["spec"]["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"][0]["name"] == account
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_its_gateway_reaches_it_and_the_workers_and_the_operator_what_it_tells() -> None:
    objects = render({"endpointPicker": ON})
    policies = of_kind(objects, "NetworkPolicy")
    labels = picker(objects)["spec"]["template"]["metadata"]["labels"]
    own = Pod("models", labels, {})
    (operator,) = [
        Pod(NAMESPACE, d["spec"]["template"]["metadata"]["labels"],
            {"kubernetes.io/metadata.name": NAMESPACE})
        for d in of_kind(objects, "Deployment")
        if d["metadata"]["name"] == "penstock-operator"
    ]  # fmt: skip
    assert reaches(policies, GATEWAY, own, 9002)
    assert reaches(policies, GATEWAY, WORKER, 8000)
    assert reaches(policies, own, WORKER, 8000)
    assert reaches(policies, operator, own, 8000)
    for source, target, port in (
        (STRANGER, own, 9002), (STRANGER, own, 8000), (STRANGER, WORKER, 8000), (own, STRANGER, 80),
    ):  # fmt: skip
        assert not reaches(policies, source, target, port)


def test_the_operator_asks_pickers_as_it_asks_gateways() -> None:
    objects = render({"endpointPicker": ON})
    (operator,) = [
        d for d in of_kind(objects, "Deployment") if d["metadata"]["name"] == "penstock-operator"
    ]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    selector = operator_parser().parse_args(container["args"]).picker_selector
    labels = picker(objects)["spec"]["template"]["metadata"]["labels"]
    assert dict(term.split("=") for term in selector.split(",")).items() <= labels.items()
