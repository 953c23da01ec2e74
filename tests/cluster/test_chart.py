"""Helm installs the chart in a real API server, in versions that this one serves."""

from pathlib import Path

import helm
import pytest
from chart_values import EVERYTHING
from kube import Kube

pytestmark = pytest.mark.skipif(helm.binary() is None, reason=helm.MISSING)
MADE = {
    "Deployment": {"release-operator", "release-gateway"},
    "Service": {"release-gateway"},
    "PodDisruptionBudget": {"release-gateway"},
    "HorizontalPodAutoscaler": {"release-gateway"},
    "Ingress": {"release-gateway"},
    "NetworkPolicy": {"release-operator", "release-gateway", "release-deny"},
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
