"""What befalls a cluster around a deployment: drains, quotas, webhooks, namespaces that go.

Each is what a platform team meets sooner or later; the workers that can serve go on serving, and
whoever looks is told what stands in the way.
"""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import LABEL, FakeNode
from kube import Access, Object
from operated import NAME, Site, site
from waiting import eventually

from penstock_contract.labels import DEPLOYMENT

Clean = Callable[[Object], dict[str, Any]]


def ready(found: Site) -> int:
    """Return how many workers are ready."""
    return sum(count for pods, count in found.pods().items() if pods.endswith(" ready"))


def told(found: Site, *words: str) -> bool:
    """Return whether PoolsReady is not, and says these words."""
    condition = found.condition("PoolsReady")
    message = str(condition.get("message"))
    return condition.get("status") == "False" and all(word in message for word in words)


def test_an_api_server_that_goes_in_the_middle_of_a_rollout_costs_no_worker(
    site: Site, clean: Clean
) -> None:
    site.apply()
    site.settle()
    site.apply(image="worker:2")
    eventually(lambda: sum(site.pods().values()) > 2, "a new worker")
    site.proxy.go_away()
    for _ in range(20):
        time.sleep(0.25)
        assert ready(site) >= 2
    assert site.operator.alive
    site.proxy.come_back()
    site.reach(clean(site.manifest(image="worker:2")))


def test_history_that_is_lost_in_the_middle_of_scaling_down_ends_nobody_else(
    site: Site, clean: Clean
) -> None:
    site.apply({"name": "default", "replicas": 4})
    site.settle()
    site.gateway.confirms = False
    site.apply({"name": "default", "replicas": 2})
    eventually(lambda: any("draining" in pod for pod in site.pods()), "draining")
    for _ in range(3):
        site.proxy.expire_watches()
        time.sleep(0.5)
    assert sum(site.pods().values()) == 4
    site.gateway.confirms = True
    site.reach(clean(site.manifest({"name": "default", "replicas": 2})))


def test_a_quota_that_is_used_up_is_told_and_what_runs_goes_on(site: Site, clean: Clean) -> None:
    site.apply()
    site.settle()
    site.kube.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small"},
            "spec": {"hard": {"pods": "2"}},
        }
    )
    site.apply({"name": "default", "replicas": 4})
    eventually(lambda: told(site, "exceeded quota", "small"), "the quota is told")
    assert ready(site) == 2
    assert site.condition("Ready")["status"] == "True"
    site.kube.delete("ResourceQuota", "small")
    site.reach(clean(site.manifest({"name": "default", "replicas": 4})))


@pytest.fixture
def webhook(site: Site) -> Iterator[str]:
    """An admission webhook for the namespace's pods that does not answer."""
    name = site.kube.namespace
    site.kube.merge("Namespace", name, {"metadata": {"labels": {"drill": name}}})
    site.apply()
    site.settle()
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    hook = {
        "name": "pods.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/pods"},
        "rules": [{**rule, "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"drill": name}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = "ValidatingWebhookConfiguration"
    group = "admissionregistration.k8s.io/v1"
    site.kube.create(
        {"apiVersion": group, "kind": kind, "metadata": {"name": name}, "webhooks": [hook]}
    )
    yield name
    site.kube.delete(kind, name)


def test_a_webhook_that_rejects_pods_is_told_and_what_runs_goes_on(
    site: Site, webhook: str, clean: Clean
) -> None:
    site.apply(image="worker:2")
    eventually(lambda: told(site, "pods.example.com"), "the webhook is told")
    assert ready(site) == 2
    assert site.condition("Ready")["status"] == "True"
    site.kube.delete("ValidatingWebhookConfiguration", webhook)
    site.reach(clean(site.manifest(image="worker:2")))


def test_a_namespace_that_goes_takes_everything_along_and_leaves_the_operator(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    lease = f"drill-{random.getrandbits(32):08x}"
    elsewhere = ("--system-namespace", "default", "--lease-name", lease)
    with site(access, node, tmp_path, *elsewhere) as found:
        found.apply()
        found.settle()
        written = len(found.proxy.writes)
        found.kube.delete("Namespace", found.kube.namespace)
        eventually(lambda: found.kube.get("Namespace", found.kube.namespace) is None, "it is gone")
        found.quiet_for(3)
        assert found.operator.alive
        assert len(found.proxy.writes) - written < 60
        assert found.operator.stop() == 0


def test_a_node_is_drained_without_a_moment_with_no_worker(
    site: Site, access: Access, node: FakeNode, kubeconfig: Path
) -> None:
    site.apply()
    site.settle()
    with FakeNode(access) as other:
        site.kube.merge("Node", other.name, {"metadata": {"labels": {LABEL: node.name}}})
        drain = subprocess.Popen(
            ["kubectl", "drain", node.name, "--ignore-daemonsets", "--delete-emptydir-data",
             "--timeout=300s", f"--kubeconfig={kubeconfig}", f"--pod-selector={DEPLOYMENT}"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            least = 2
            while drain.poll() is None:
                least = min(least, ready(site))
                time.sleep(0.05)
            assert drain.returncode == 0
            assert least >= 1
            site.settle()
            assert {pod["spec"]["nodeName"] for pod in site.kube.list("Pod")} == {other.name}
        finally:
            drain.kill()
            drain.wait()
            site.kube.merge("Node", node.name, {"spec": {"unschedulable": None}})
            site.kube.delete("InferenceDeployment", NAME)
            eventually(lambda: not site.kube.list("Pod"), "its pods are gone")
