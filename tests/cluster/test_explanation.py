"""`penstock explain` against a real API server, as different users of it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import plain_http
import pytest
import yaml
from fake_node import FakeNode
from kube import Access, Kube, Object
from operated import NAME, Site
from operated import site as open_site
from waiting import PATIENCE, eventually

COMMAND = Path(sys.executable).parent / "penstock"
SCALED: Object = {"name": "default", "scaling": {"minReplicas": 2, "maxReplicas": 8}}


def address() -> str:
    """Return this machine's own address: API servers proxy to no loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback ones")
        return str(probe.getsockname()[0])


def operator_pod(site: Site) -> None:
    """Let the operator's process be known as the pod that the chart would make of it."""
    labels = {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "operator"}
    port = {"name": "metrics", "containerPort": site.operator.port}
    container = {"name": "operator", "image": "operator:1", "ports": [port]}
    spec = {"containers": [container], "schedulerName": "nobody"}
    name = "penstock-operator-0"
    meta = {"name": name, "labels": labels}
    site.kube.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    status = {"phase": "Running", "podIP": address(), "podIPs": [{"ip": address()}]}
    site.kube.merge("Pod", name, {"status": status}, "status")


def allow(kube: Kube, *rules: Object) -> str:
    """Give the namespace's own service account these rules and nothing else; return its token."""
    group = "rbac.authorization.k8s.io"
    meta = {"metadata": {"name": "reader"}}
    kube.apply({"apiVersion": f"{group}/v1", "kind": "Role", **meta, "rules": list(rules)})
    kube.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            **meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "default"}],
        }
    )
    return kube.token("default")


READ: Object = {
    "apiGroups": ["penstock.dev"], "resources": ["inferencedeployments"], "verbs": ["get", "list"],
}  # fmt: skip
PROXY = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"]},
)


@dataclass(frozen=True)
class Result:
    """How a command ended, and all that it printed."""

    exit_code: int
    output: str


class Users:
    """Kubeconfigs for the namespace of a site, one per user."""

    def __init__(self, site: Site, kubeconfig: Path, folder: Path) -> None:
        self.site = site
        self._config = yaml.safe_load(kubeconfig.read_text())
        self._folder = folder

    def explain(self, token: str, *arguments: str, server: str = "") -> Result:
        """Run the command as the owner of a token, in the namespace of the site."""
        config = {**self._config, "users": [{"name": "user", "user": {"token": token}}]}
        cluster = config["clusters"][0]["name"]
        if server:
            config["clusters"] = [{"name": cluster, "cluster": {"server": server}}]
        context = {"cluster": cluster, "user": "user", "namespace": self.site.kube.namespace}
        config["contexts"] = [{"name": "here", "context": context}]
        path = self._folder / "user.yaml"
        path.write_text(yaml.safe_dump({**config, "current-context": "here"}))
        environment = {"KUBECONFIG": str(path), "PENSTOCK_HOME": str(self._folder / "home")}
        system = ["--system-namespace", self.site.kube.namespace]
        done = subprocess.run(
            [COMMAND, "explain", *arguments, *system],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Result(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def users(access: Access, node: FakeNode, kubeconfig: Path, tmp_path: Path) -> Iterator[Users]:
    with open_site(access, node, tmp_path, "--scaling-interval", "1s") as site:
        site.apply(SCALED)
        site.settle()
        url = f"http://127.0.0.1:{site.operator.port}/explain/{site.kube.namespace}/{NAME}"
        eventually(lambda: "stays at 2" in plain_http.get(url).text, "it was decided")
        eventually(lambda: site.condition("ScalingActive"), "the status tells it")
        yield Users(site, kubeconfig, tmp_path)


def test_the_operator_tells_what_it_decided_just_now(users: Users) -> None:
    operator_pod(users.site)
    token = allow(users.site.kube, READ, *PROXY)
    for arguments in ([NAME], [], [NAME, "--context", "here"]):
        result = users.explain(token, *arguments)
        assert result.exit_code == 0, result.output
        assert result.output.startswith(f"{NAME}/default: stays at 2 (")
        assert "λ, arrivals" in result.output


def test_who_may_only_read_gets_what_the_status_holds(users: Users) -> None:
    operator_pod(users.site)
    result = users.explain(allow(users.site.kube, READ), NAME)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{NAME}/default: 2 of 2 workers ready")
    assert "autoscaler: " in result.output
    assert "could not be asked: " in result.output
    assert "403" in result.output


def test_an_operator_that_is_elsewhere_is_looked_for_where_the_user_says(users: Users) -> None:
    result = users.explain(allow(users.site.kube, READ, *PROXY), NAME)
    assert result.exit_code == 0, result.output
    assert "--system-namespace" in result.output


def test_what_is_wrong_is_told_with_the_way_out(users: Users) -> None:
    site = users.site
    token = allow(site.kube, READ)
    for arguments, words in (
        (["nobody"], "no InferenceDeployment nobody in namespace"),
        ([NAME, "-n", "elsewhere"], "in namespace elsewhere is not allowed"),
        ([NAME, "--context", "nowhere"], "no cluster: "),
    ):
        result = users.explain(token, *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.output
    assert "is not allowed" in users.explain("stranger", NAME).output
    assert "cannot be reached" in users.explain(token, NAME, server="https://127.0.0.1:9").output
    site.apply({"name": "default", "replicas": 2})
    assert "give one `scaling`" in users.explain(token, NAME).output
