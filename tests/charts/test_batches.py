"""The batch service: off unless asked for, one writer of one volume, behind the gateway."""

from typing import Any

import pytest
from helm import NAMESPACE, of_kind, render
from network import Pod, reaches

from penstock_contract.on_behalf import ENVIRONMENT, SECRET_KEY

ON: dict[str, Any] = {"batches": {"enabled": True, "tokenSecret": "shared"}}
SYSTEM = {"kubernetes.io/metadata.name": NAMESPACE}
STRANGER = Pod("elsewhere", {"app": "x"}, {"kubernetes.io/metadata.name": "elsewhere"})
GATEWAY_PORT, PORT, API = 8000, 8001, 6443


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod templates by their component."""
    found = {d["metadata"]["name"]: d["spec"]["template"] for d in of_kind(objects, "Deployment")}
    return {name.removeprefix("penstock-"): template for name, template in found.items()}


def test_it_is_off_unless_asked_for() -> None:
    objects = render()
    assert "batches" not in pods(objects)
    assert not of_kind(objects, "PersistentVolumeClaim")
    (container,) = pods(objects)["gateway"]["spec"]["containers"]
    assert not [flag for flag in container["args"] if flag.startswith("--batches")]


def test_it_needs_a_token() -> None:
    with pytest.raises(ValueError, match="tokenSecret"):
        render({"batches": {"enabled": True}})


def test_gateway_and_service_share_a_token_and_know_each_other() -> None:
    objects = render(ON)
    key = {"secretKeyRef": {"name": "shared", "key": SECRET_KEY}}
    own = {"name": ENVIRONMENT, "valueFrom": key}
    found = {name: pod["spec"]["containers"][0] for name, pod in pods(objects).items()}
    assert own in found["gateway"]["env"]
    assert found["batches"]["env"] == [own]
    assert "env" not in found["operator"]
    (port,) = found["batches"]["ports"]
    assert port["containerPort"] == PORT
    assert f"--batches=http://penstock-batches.{NAMESPACE}:{PORT}" in found["gateway"]["args"]
    assert f"--gateway=http://penstock-gateway.{NAMESPACE}:80" in found["batches"]["args"]
    services = {s["metadata"]["name"]: s["spec"] for s in of_kind(objects, "Service")}
    assert services["penstock-batches"]["ports"][0]["port"] == PORT
    labels = pods(objects)["batches"]["metadata"]["labels"]
    assert services["penstock-batches"]["selector"].items() <= labels.items()


def test_a_token_of_workers_is_none_of_its_business() -> None:
    objects = render({**ON, "worker": {"tokenSecret": "workers"}})
    (container,) = pods(objects)["batches"]["spec"]["containers"]
    assert [variable["name"] for variable in container["env"]] == [ENVIRONMENT]


def test_one_pod_writes_one_volume_which_outlives_the_release() -> None:
    objects = render(ON)
    (deployment,) = [d for d in of_kind(objects, "Deployment") if "batches" in str(d["metadata"])]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    (claim,) = of_kind(objects, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    spec = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (container,) = spec["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"--folder={mounts['data']}" in container["args"]
    others = [template for name, template in pods(objects).items() if name != "batches"]
    assert not [t for t in others if "persistentVolumeClaim" in str(t)]


def test_a_claim_of_ones_own_is_taken() -> None:
    objects = render({"batches": {**ON["batches"], "storage": {"claim": "mine"}}})
    assert not of_kind(objects, "PersistentVolumeClaim")
    volumes = pods(objects)["batches"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_it_asks_the_api_server_nothing() -> None:
    objects = render(ON)
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    assert "penstock-batches" not in {s["name"] for b in bindings for s in b["subjects"]}
    accounts = {a["metadata"]["name"]: a for a in of_kind(objects, "ServiceAccount")}
    assert accounts["penstock-batches"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    "policy", [{}, {"clients": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}]
)
def test_the_gateway_reaches_it_it_reaches_the_gateway_and_nobody_else_anything(
    policy: dict[str, Any],
) -> None:
    objects = render({**ON, "networkPolicy": policy})
    policies = of_kind(objects, "NetworkPolicy")
    found = {
        name: Pod(NAMESPACE, template["metadata"]["labels"], SYSTEM)
        for name, template in pods(objects).items()
    }
    batches = found["batches"]
    assert reaches(policies, found["gateway"], batches, PORT)
    assert reaches(policies, batches, found["gateway"], GATEWAY_PORT)
    for other in (found["operator"], STRANGER, Pod(NAMESPACE, {"app": "x"}, SYSTEM)):
        assert not reaches(policies, other, batches, PORT)
    for other, port in ((STRANGER, 80), (Pod("kube-system"), API), (found["operator"], 8080)):
        assert not reaches(policies, batches, other, port)
    monitored = render({**ON, "networkPolicy": {"monitoringNamespaces": ["elsewhere"]}})
    assert reaches(of_kind(monitored, "NetworkPolicy"), STRANGER, batches, PORT)


def test_its_metrics_are_read() -> None:
    objects = render({**ON, "metrics": {"podMonitor": {"enabled": True}}})
    monitors = {m["metadata"]["name"]: m["spec"] for m in of_kind(objects, "PodMonitor")}
    assert monitors["penstock-batches"]["podMetricsEndpoints"][0]["port"] == "http"
