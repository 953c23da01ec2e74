"""What the property tests rest on: the played node, and the proxy that breaks things."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import plain_http
import pytest
from api_proxy import ApiProxy, Call, Fault
from fake_node import FakeNode, Fate
from kube import Access, Kube, Object
from waiting import eventually

from penstock_contract.worker_pod import CONTAINER


def deployment(node: FakeNode, replicas: int = 1, gpus: int = 0) -> Object:
    limits = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    spec = {
        "containers": [{"name": CONTAINER, "image": "none", "resources": limits}],
        **node.template,
    }
    labels = {"app": "a"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def available(kube: Kube) -> int:
    found = kube.get("Deployment", "a") or {}
    return int(found.get("status", {}).get("readyReplicas", 0))


def conditions(pod: Object) -> dict[str, str]:
    return {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}


def test_pods_on_the_played_node_become_ready_and_go(kube: Kube, node: FakeNode) -> None:
    kube.apply(deployment(node, replicas=3))
    eventually(lambda: available(kube) == 3, "three pods ready")
    kube.delete("Deployment", "a")
    eventually(lambda: kube.list("Pod") == [], "pods gone")


def test_a_pod_stays_for_its_grace_after_it_is_deleted(kube: Kube, node: FakeNode) -> None:
    node.graces[kube.namespace] = 4.0
    kube.apply(deployment(node))
    eventually(lambda: available(kube) == 1, "pod ready")
    kube.scale("Deployment", "a", 0)
    leaving = eventually(
        lambda: [p for p in kube.list("Pod") if "deletionTimestamp" in p["metadata"]], "leaving"
    )
    assert conditions(leaving[0])["Ready"] == "True"
    eventually(lambda: kube.list("Pod") == [], "pods gone")


@pytest.mark.parametrize(
    ("fate", "reason"),
    [(Fate.CRASHES, "CrashLoopBackOff"), (Fate.NO_IMAGE, "ImagePullBackOff")],
)
def test_pods_fail_as_told_and_recover(kube: Kube, node: FakeNode, fate: Fate, reason: str) -> None:
    node.decide(kube.namespace, fate)
    kube.apply(deployment(node))

    def waits() -> bool:
        states = [c["state"] for p in kube.list("Pod") for c in _containers(p)]
        return [s.get("waiting", {}).get("reason") for s in states] == [reason]

    eventually(waits, reason)
    node.decide(kube.namespace, Fate.READY)
    eventually(lambda: available(kube) == 1, "recovered")


def _containers(pod: Object) -> list[Object]:
    return list(pod["status"].get("containerStatuses", []))


def test_a_pod_that_asks_for_a_gpu_finds_no_place(kube: Kube, node: FakeNode) -> None:
    kube.apply(deployment(node, gpus=1))

    def refused() -> bool:
        return [conditions(p).get("PodScheduled") for p in kube.list("Pod")] == ["False"]

    eventually(refused, "unschedulable")


def test_a_worker_told_to_drain_is_not_ready_until_it_is_taken_back(
    kube: Kube, node: FakeNode
) -> None:
    kube.apply(deployment(node))
    eventually(lambda: available(kube) == 1, "ready")
    url = f"http://{kube.list('Pod')[0]['status']['podIP']}:8000"
    plain_http.post(f"{url}/drain").raise_for_status()
    eventually(lambda: available(kube) == 0, "not ready")
    assert plain_http.get(f"{url}/health").status_code == 503
    plain_http.delete(f"{url}/drain").raise_for_status()
    eventually(lambda: available(kube) == 1, "ready again")


@pytest.fixture
def through(kube: Kube, proxy: ApiProxy, tmp_path: Path) -> Iterator[Kube]:
    """A client whose calls go through the proxy."""
    access = Access.read(proxy.kubeconfig(tmp_path / "kubeconfig"))
    with Kube(access, kube.namespace) as through:
        yield through


def config(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


def creates(call: Call) -> bool:
    return call.verb == "create"


def test_the_proxy_records_calls_as_a_role_grants_them(through: Kube, proxy: ApiProxy) -> None:
    through.create(config("a"))
    through.scale("Deployment", "none", 1) if through.get("Deployment", "none") else None
    through.list("Pod")
    through.merge("ConfigMap", "a", {"data": {"a": "c"}})
    grants = [call.grant for call in proxy.calls]
    assert grants == [
        ("", "configmaps", "create"),
        ("apps", "deployments", "get"),
        ("", "pods", "list"),
        ("", "configmaps", "patch"),
    ]
    assert [call.verb for call in proxy.writes] == ["create", "patch"]


def test_a_refused_write_never_arrives(through: Kube, kube: Kube, proxy: ApiProxy) -> None:
    proxy.inject(Fault(creates, status=429))
    with pytest.raises(RuntimeError, match="429"):
        through.create(config("a"))
    assert kube.get("ConfigMap", "a") is None
    through.create(config("a"))


def test_a_lost_write_never_arrives(through: Kube, kube: Kube, proxy: ApiProxy) -> None:
    proxy.inject(Fault(creates, send=False))
    with pytest.raises(httpx.TransportError):
        through.create(config("a"))
    assert kube.get("ConfigMap", "a") is None


def test_an_ambiguous_write_arrives_without_an_answer(
    through: Kube, kube: Kube, proxy: ApiProxy
) -> None:
    proxy.inject(Fault(creates, answer=False))
    with pytest.raises(httpx.TransportError):
        through.create(config("a"))
    assert kube.get("ConfigMap", "a") is not None


def test_an_absent_server_refuses_until_it_is_back(through: Kube, proxy: ApiProxy) -> None:
    proxy.go_away()
    with pytest.raises(httpx.TransportError):
        through.list("Pod")
    proxy.come_back()
    assert through.list("Pod") == []


def test_watches_can_be_filtered_cut_and_expired(
    through: Kube, kube: Kube, proxy: ApiProxy
) -> None:
    def without_b(_call: Call, line: bytes) -> list[bytes]:
        return [] if json.loads(line)["object"]["metadata"]["name"] == "b" else [line, line]

    proxy.edit = without_b
    selector = {"watch": "true", "fieldSelector": "metadata.namespace=" + kube.namespace}
    with through.http.stream("GET", through.path("ConfigMap"), params=selector) as events:
        lines = (json.loads(line) for line in events.iter_lines())
        for name in ("a", "b", "c"):
            kube.create(config(name))
        seen: list[str] = []
        while seen.count("c") < 2:
            seen.append(next(lines)["object"]["metadata"]["name"])
        assert [name for name in seen if name in "abc"] == ["a", "a", "c", "c"]
        proxy.expire_watches()
        assert next(lines)["object"]["code"] == 410
        assert next(lines, None) is None
    with through.http.stream("GET", through.path("ConfigMap"), params=selector) as events:
        lines = (json.loads(line) for line in events.iter_lines())
        next(lines)
        proxy.cut_watches()
        assert all(event["type"] == "ADDED" for event in lines)
