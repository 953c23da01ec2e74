"""Who may do what, and who reaches whom, once the chart is installed."""

from typing import Any

import pytest
from chart_values import CASES
from deployments import deployment
from helm import NAMESPACE, ROOT, of_kind, render
from network import Pod, reaches

from penstock_contract.labels import FOLLOWER_OF
from penstock_operator.manifests import Settings, group_objects, pool_objects
from penstock_operator.plan import plan

Rules = list[dict[str, Any]]
STRANGER = Pod("elsewhere", {"app": "x"}, {"kubernetes.io/metadata.name": "elsewhere"})
SYSTEM = {"kubernetes.io/metadata.name": NAMESPACE}
API, HTTP, METRICS = 6443, 8000, 8080


def granted(objects: list[dict[str, Any]]) -> Rules:
    return [
        rule
        for kind in ("ClusterRole", "Role")
        for o in of_kind(objects, kind)
        for rule in o["rules"]
    ]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_no_rule_has_a_wildcard_or_creates_rights(values: dict[str, Any]) -> None:
    rules = granted(render(values))
    assert rules
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "configmaps" not in rule["resources"]
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


def secret_readers(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the kind and namespace of every role that names secrets."""
    return [
        (role["kind"], role["metadata"].get("namespace", ""))
        for kind in ("ClusterRole", "Role")
        for role in of_kind(render(values), kind)
        if any("secrets" in rule["resources"] for rule in role["rules"])
    ]


def test_secrets_are_read_where_the_tenants_are_and_only_if_asked_for() -> None:
    for values in CASES.values():
        wanted = values.get("gateway", {}).get("tenants", {})
        expected = [("Role", wanted["namespace"])] if wanted.get("secrets") else []
        assert secret_readers(values) == expected
    own = {"gateway": {"tenants": {"secrets": True}}}
    assert secret_readers(own) == [("Role", NAMESPACE)]


def test_the_gateway_only_reads() -> None:
    for values in CASES.values():
        objects = render(values)
        roles = of_kind(objects, "ClusterRole") + of_kind(objects, "Role")
        own = [r for r in roles if "-gateway" in r["metadata"]["name"]]
        verbs = {verb for role in own for rule in role["rules"] for verb in rule["verbs"]}
        assert verbs == {"list", "watch"}


def test_named_namespaces_get_roles_and_the_cluster_none() -> None:
    objects = render({"watchNamespaces": ["team-a", "team-b"]})
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    wide = {
        r["metadata"]["name"].rpartition("-")[2]: r["rules"]
        for r in of_kind(render(), "ClusterRole")
    }
    for component in ("operator", "gateway"):
        name = f"{NAMESPACE}-penstock-{component}"
        roles = [r for r in of_kind(objects, "Role") if r["metadata"]["name"] == name]
        assert {r["metadata"]["namespace"] for r in roles} == {"team-a", "team-b"}
        assert all(r["rules"] == wide[component] for r in roles)
    flags = [
        [a for a in d["spec"]["template"]["spec"]["containers"][0]["args"] if "namespace=team" in a]
        for d in of_kind(objects, "Deployment")
    ]
    assert flags == [["--namespace=team-a", "--namespace=team-b"]] * 2


def test_every_binding_binds_an_account_of_the_release_to_a_role_of_the_release() -> None:
    for values in CASES.values():
        objects = render(values)
        accounts = {
            (a["metadata"]["namespace"], a["metadata"]["name"])
            for a in of_kind(objects, "ServiceAccount")
        }
        for kind in ("ClusterRole", "Role"):
            roles = {
                (r["metadata"].get("namespace"), r["metadata"]["name"])
                for r in of_kind(objects, kind)
            }
            bindings = of_kind(objects, f"{kind}Binding")
            assert roles == {
                (b["metadata"].get("namespace"), b["roleRef"]["name"]) for b in bindings
            }
            subjects = [s for b in bindings for s in b["subjects"]]
            assert {(s["namespace"], s["name"]) for s in subjects} <= accounts


def installed(values: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Pod]]:
    """Return all policies, and the pods that there are once a model is served."""
    objects = render(values)
    pods = {
        d["metadata"]["name"].removeprefix("penstock-"): Pod(
            NAMESPACE, d["spec"]["template"]["metadata"]["labels"], SYSTEM
        )
        for d in of_kind(objects, "Deployment")
    }
    (pool,) = plan(deployment(), {}).pools
    named = values.get("networkPolicy", {}).get("monitoringNamespaces", [])
    settings = Settings(system_namespace=NAMESPACE, metrics_namespaces=tuple(named))
    policy = pool_objects(pool, settings)["NetworkPolicy"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    pods["worker"] = Pod(policy["metadata"]["namespace"], labels)
    return [*of_kind(objects, "NetworkPolicy"), policy], pods


def test_clients_reach_the_gateway_the_gateway_the_workers_and_nobody_else_anything() -> None:
    policies, pods = installed({})
    everyone = {**pods, "stranger": STRANGER}
    edges = {
        (a, b, port)
        for a in everyone
        for b in pods
        for port in (HTTP, METRICS)
        if a != b and reaches(policies, everyone[a], pods[b], port)
    }
    assert edges == {
        ("stranger", "gateway", HTTP),
        ("worker", "gateway", HTTP),
        ("operator", "gateway", HTTP),
        ("gateway", "worker", HTTP),
        ("operator", "worker", HTTP),
    }


def test_pods_of_a_replica_that_spans_nodes_reach_each_other_and_nobody_else_followers() -> None:
    policies, pods = installed({})
    over = {"tensor": 2, "nodes": 2}
    spec = deployment({"name": "default", "replicas": 1, "parallelism": over})
    (pool,) = plan(spec, {}).pools
    around = [o for o in group_objects(pool, wanted=1) if o["kind"] == "NetworkPolicy"]
    follower = Pod(pods["worker"].namespace, {FOLLOWER_OF: pool.metadata.name})
    neighbour = Pod(pods["worker"].namespace, {FOLLOWER_OF: "another-default"})
    everyone = {**pods, "follower": follower, "neighbour": neighbour, "stranger": STRANGER}
    meeting, agreed = 29500, 41327
    edges = {
        (a, b)
        for a in everyone
        for b in ("worker", "follower")
        for port in (meeting, agreed)
        if reaches([*policies, *around], everyone[a], everyone[b], port)
    }
    assert edges == {("worker", "follower"), ("follower", "worker"), ("follower", "follower")}


def test_named_clients_alone_reach_the_gateway() -> None:
    values = {"networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}}
    policies, pods = installed(values)
    client = Pod("apps", {}, {"a": "b"})
    assert reaches(policies, client, pods["gateway"], HTTP)
    assert reaches(policies, pods["operator"], pods["gateway"], HTTP)
    assert not reaches(policies, STRANGER, pods["gateway"], HTTP)


def test_monitoring_reaches_the_metrics_of_operator_and_workers_once_it_is_named() -> None:
    policies, pods = installed({"networkPolicy": {"monitoringNamespaces": ["elsewhere"]}})
    assert reaches(policies, STRANGER, pods["operator"], METRICS)
    assert reaches(policies, STRANGER, pods["worker"], HTTP)
    assert not reaches(policies, STRANGER, pods["operator"], HTTP)


def test_both_reach_the_api_server_and_nothing_outside() -> None:
    policies, pods = installed({})
    api_server = Pod("kube-system")
    for name in ("operator", "gateway"):
        assert reaches(policies, pods[name], api_server, API)
        assert not reaches(policies, pods[name], STRANGER, 80)


def test_a_namespace_can_be_closed_to_everything_else() -> None:
    policies, _ = installed({"networkPolicy": {"denyNamespace": True}})
    neighbour = Pod(NAMESPACE, {"app": "other"}, SYSTEM)
    assert not reaches(policies, neighbour, STRANGER, 80)
    assert not reaches(policies, STRANGER, neighbour, 80)


def test_the_documentation_names_every_resource_that_is_granted() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    for rule in granted(render()):
        for resource in rule["resources"]:
            assert f"`{resource.partition('/')[0]}`" in text or resource.endswith("/finalizers")
