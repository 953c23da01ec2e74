"""What can't be run degrades with a clear condition, and what ran before keeps serving."""

import pytest
from fake_node import Fate
from kube import Object
from operated import NAME, Site
from waiting import eventually

BAD: dict[str, Object] = {
    "an adapter that is nowhere": {
        "model": {"uri": "file:///model", "adapters": [{"name": "sql", "uri": "file://sql"}]}
    },
    "a model that is nowhere": {"model": {"uri": "file://model"}},
}


def test_a_spec_that_cannot_be_built_leaves_the_old_revision_serving(site: Site) -> None:
    site.apply()
    before = site.settle()
    for spec in BAD.values():
        site.apply(**spec)
        eventually(lambda: site.condition("PoolsReady").get("reason") == "UnsupportedSpec", "told")
        assert site.condition("Ready")["status"] == "True"
        assert site.condition("PoolsReady")["message"].startswith("spec.model")
        assert site.pods() == before["pods"]
    site.apply()
    site.reach(before)


@pytest.mark.parametrize("fate", [Fate.NO_IMAGE, Fate.CRASHES, Fate.NO_VOLUME])
def test_a_revision_that_does_not_start_leaves_the_old_one_serving(site: Site, fate: Fate) -> None:
    def by_image(pod: Object) -> Fate:
        return fate if pod["spec"]["containers"][0]["image"] == "worker:bad" else Fate.READY

    site.node.decide(site.kube.namespace, by_image)
    site.apply()
    before = site.settle()
    site.apply(image="worker:bad")
    eventually(lambda: _stuck(site), "RolloutComplete=False")
    assert site.condition("Ready")["status"] == "True"
    serving = {pods: n for pods, n in site.pods().items() if pods.endswith(" ready")}
    assert serving == before["pods"]
    site.apply()
    site.reach(before)


def _stuck(site: Site) -> bool:
    found = site.condition("RolloutComplete")
    return found.get("reason") in ("Stalled", "RolledBack")


def test_the_status_follows_the_workers(site: Site) -> None:
    site.apply()
    site.settle()
    assert site.condition("Ready")["reason"] == "Serving"
    site.node.decide(site.kube.namespace, Fate.NEVER_READY)
    eventually(lambda: site.condition("Ready").get("status") == "False", "no worker, not ready")
    assert site.condition("Ready")["reason"] == "NoReadyWorkers"
    site.node.decide(site.kube.namespace, Fate.READY)
    eventually(lambda: site.condition("Ready").get("status") == "True", "ready again")


def test_a_worker_without_a_place_is_told(site: Site) -> None:
    site.apply({"name": "default", "replicas": 1, "resources": {"limits": {"nvidia.com/gpu": "1"}}})
    eventually(
        lambda: site.condition("PoolsReady").get("reason") == "InsufficientCapacity", "no GPU"
    )
    assert "nvidia.com/gpu" in site.condition("PoolsReady")["message"]


def test_deletion_needs_no_operator(site: Site) -> None:
    site.apply()
    site.settle()
    assert all("finalizers" not in i["metadata"] for k in OWNED for i in site.kube.list(k))
    site.operator.kill()
    site.kube.delete("InferenceDeployment", NAME)
    eventually(site.empty, "all garbage-collected")


OWNED = ("InferenceDeployment", "EnginePool", "Deployment", "Service", "Pod")


def test_deletion_in_the_middle_of_a_rollout_leaves_nothing(site: Site) -> None:
    site.node.decide(site.kube.namespace, Fate.NEVER_READY)
    site.apply()
    eventually(lambda: site.kube.list("Pod"), "pods")
    site.apply(image="worker:2")
    site.kube.delete("InferenceDeployment", NAME)
    eventually(site.empty, "all gone")
    site.quiet_for(2)
    assert site.empty()
