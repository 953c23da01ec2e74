"""Helm installs the chart in a real API server, in versions that this one serves."""

from pathlib import Path

import helm
import pytest
from chart_values import EVERYTHING
from kube import Kube, Object

pytestmark = pytest.mark.skipif(helm.binary() is None, reason=helm.MISSING)
MADE = {
    "Deployment": {"release-operator", "release-gateway", "release-batches"},
    "Service": {"release-gateway", "release-batches"},
    "PodDisruptionBudget": {"release-gateway"},
    "HorizontalPodAutoscaler": {"release-gateway"},
    "Ingress": {"release-gateway"},
    "NetworkPolicy": {"release-operator", "release-gateway", "release-batches", "release-deny"},
    "ConfigMap": {"release-dashboard"},
}


def test_a_release_comes_and_goes_with_everything_in_it(kubeconfig: Path, kube: Kube) -> None:
    gateway = EVERYTHING["gateway"]
    values = {
        **EVERYTHING,
        "gateway": {
            **gateway,
            "tenants": {**gateway["tenants"], "namespace": kube.namespace},
            "httpRoute": {"enabled": False},  # its type is not there
        },
        "endpointPicker": {"enabled": False},  # nor is InferencePool
        "crds": {"install": False},
        "watchNamespaces": [kube.namespace],
        "metrics": {"dashboard": {"enabled": True}},
    }
    place = ("release", "--namespace", kube.namespace, "--kubeconfig", str(kubeconfig))
    done = helm.helm("install", *place[:1], str(helm.CHART), *place[1:], values=values)
    assert done.returncode == 0, done.stderr
    mine = "app.kubernetes.io/instance=release"
    made = {kind: {o["metadata"]["name"] for o in kube.list(kind, mine)} for kind in MADE}
    assert made == MADE

    done = helm.helm("uninstall", *place)
    assert done.returncode == 0, done.stderr
    assert {kind: kube.list(kind, mine) for kind in MADE} == {kind: [] for kind in MADE}


def notes(kubeconfig: Path, values: Object) -> str:
    done = helm.helm(
        "install", "release", str(helm.CHART), "--namespace", "llm", "--dry-run",
        "--kubeconfig", str(kubeconfig), values={"crds": {"install": False}, **values},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("\nNOTES:\n")[2]


def test_helm_tells_where_to_ask(kubeconfig: Path) -> None:
    assert "http://release-gateway.llm/v1" in notes(kubeconfig, {})
    assert "llm:8080/v1" in notes(kubeconfig, {"gateway": {"service": {"port": 8080}}})
    ingress = {"enabled": True, "hosts": ["llm.example.com"], "tlsSecret": "llm-tls"}
    assert "https://llm.example.com/v1" in notes(kubeconfig, {"gateway": {"ingress": ingress}})


def test_helm_calls_an_open_gateway_open(kubeconfig: Path) -> None:
    warning = "Whoever reaches the gateway may use it"
    assert warning in notes(kubeconfig, {})
    assert warning not in notes(kubeconfig, {"gateway": {"tenants": {"required": True}}})
