"""What the operator calls is what the chart grants it, and nothing is granted that it never calls.

It runs here as a service account with the chart's own rules, against an API server that enforces
them, through a whole life of a deployment.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from api_proxy import Call
from fake_node import FakeNode, Fate
from kube import Access, Kube, Object
from operated import NAME, Site, site
from pod_monitors import forget, serve
from waiting import eventually

from penstock_contract.labels import LEADER

TEMPLATES = Path(__file__).parents[2] / "charts" / "penstock" / "templates"
Grant = tuple[str, str, str]
ADMISSION = {
    ("penstock.dev", "inferencedeployments/finalizers", "update"),
    ("penstock.dev", "enginepools/finalizers", "update"),
}
"""Never called: the OwnerReferencesPermissionEnforcement admission check asks for them."""


def chart_rules() -> list[Object]:
    """Return the rules of the operator's roles, as the chart writes them."""
    text = (TEMPLATES / "_rules.tpl").read_text()
    found = re.search(r'define "penstock.operatorRules" -}}\n(.*?){{- end }}', text, re.DOTALL)
    assert found is not None
    own = re.sub(r"{{.*?}}", "x", (TEMPLATES / "operator" / "rbac.yaml").read_text())
    rules = re.findall(r"^rules:\n(.*?)(?=^---|\Z)", own, re.DOTALL | re.MULTILINE)
    return [rule for block in (found[1], *rules) for rule in yaml.safe_load(block)]


def grants(rules: list[Object]) -> set[Grant]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(call: Call, status: int) -> set[Grant]:
    """Return the grants that a call needed: an apply that made the object asked for two."""
    group, resource, verb = call.grant
    applied = verb == "patch" and status == 201
    return {call.grant, (group, resource, "create")} if applied else {call.grant}


def bound(kube: Kube) -> str:
    """Give the namespace's own service account the chart's rules; return its token."""
    meta = {"metadata": {"name": "operator"}}
    api = "rbac.authorization.k8s.io"
    rules = [{k: v for k, v in rule.items() if k != "resourceNames"} for rule in chart_rules()]
    kube.create({"apiVersion": f"{api}/v1", "kind": "Role", **meta, "rules": rules})
    kube.create(
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            **meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "default"}],
        }
    )
    return kube.token("default")


@pytest.fixture
def pod_monitors(access: Access) -> Iterator[None]:
    """Let the cluster serve PodMonitors, unless it does."""
    with Kube(access) as kube:
        missing = serve(kube)
        yield
        if missing:
            forget(kube)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("pod_monitors")
def test_what_it_calls_is_what_the_chart_grants(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    with site(access, node, tmp_path, token=bound) as found:
        _live(found)
        answers = [(call, status) for call, status in found.proxy.answers if call.resource]
    refused = {call.grant for call, status in answers if status == 403}
    called = {grant for call, status in answers for grant in asked(call, status)}
    assert refused == set()
    granted = grants(chart_rules())
    assert called - granted == set()
    assert granted - called == ADMISSION


def test_no_rule_has_a_wildcard_or_reads_secrets() -> None:
    for group, resource, verb in grants(chart_rules()):
        assert "*" not in (group, resource, verb)
        assert resource != "secrets"


def _live(found: Site) -> None:
    """Create, fail to start, update, drain, lose a pool and a follower, end."""
    keeps = {"name": "default", "replicas": 2}
    found.node.decide(found.kube.namespace, Fate.NO_VOLUME)
    found.apply(keeps, {"name": "more", "replicas": 1})
    eventually(lambda: "FailedMount" in found.condition("PoolsReady").get("message", ""), "told")
    found.node.decide(found.kube.namespace, Fate.READY)
    found.settle()
    found.apply(keeps, {"name": "more", "replicas": 1}, image="worker:2")
    found.settle()
    found.apply({"name": "default", "replicas": 1}, image="worker:2")
    eventually(lambda: found.settled() and sum(found.pods().values()) == 1, "one left")
    found.apply({"name": "default", "replicas": 1, "parallelism": {"tensor": 2, "nodes": 2}})
    found.settle()
    (follower,) = found.kube.list("Pod", LEADER)
    evicted = {"status": {"phase": "Failed", "reason": "Evicted"}}
    found.kube.merge("Pod", follower["metadata"]["name"], evicted, "status")
    uid = follower["metadata"]["uid"]
    eventually(lambda: uid not in str(found.kube.list("Pod", LEADER)), "the evicted one goes")
    found.settle()
    found.kube.delete("InferenceDeployment", NAME)
    eventually(found.empty, "nothing left")
    found.operator.stop()
