"""The autoscaler against a real API server; workers and gateway export what a made-up load says."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import plain_http
import pytest
from exported import Exported, exposition
from fake_node import FakeNode
from kube import Access, Object
from operated import NAME, Site
from operated import site as open_site
from waiting import PATIENCE, eventually

from penstock_operator.autoscaling.scrape import Scrape

POOL = f"{NAME}-default"
SCALED: Object = {"name": "default", "scaling": {"minReplicas": 1, "maxReplicas": 8}}
SPEC: Object = {
    "slo": {
        "ttft": {"quantile": "0.9", "target": "2s"},
        "tpot": {"quantile": "0.9", "target": "100ms"},
    },
    "autoscaling": {
        "behavior": {
            "scaleUp": {"maxStep": 8, "window": "0s"},
            "scaleDown": {"maxStep": 8, "window": "2s"},
        }
    },
}
ALWAYS: Object = {
    "name": "always",
    "start": "* * * * *",
    "end": "0 0 1 1 *",
    "timeZone": "Europe/Berlin",
    "minReplicas": 3,
}
"""A schedule that opens anew every minute, so that whatever the time is, it is open."""


class Loaded:
    """A site whose made-up fleet lives in real time, on the pods that there are."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.fleet = Exported(workers=["nobody"], time=time.time())
        site.gateway.exports = lambda: exposition(self._now().gateway()).replace(
            'model="m"', f'model="{NAME}"'
        )
        site.node.exports[site.kube.namespace] = lambda pod: exposition(self._worker(pod))

    def _now(self) -> Exported:
        self.fleet.pass_time(max(0.0, time.time() - self.fleet.time))
        return self.fleet

    def _worker(self, pod: str) -> Scrape:
        if pod not in self.fleet.workers:
            self.fleet.workers = [w for w in self.fleet.workers if w != "nobody"] + [pod]
        return self._now().worker(pod)

    def size(self) -> int:
        found = self.site.kube.get("EnginePool", POOL)
        return int(found["spec"]["replicas"]) if found else 0

    def reaches(self, size: int, within: float = PATIENCE) -> None:
        eventually(lambda: self.size() == size, f"{size} replicas", within)


@pytest.fixture
def loaded(access: Access, node: FakeNode, tmp_path: Path) -> Iterator[Loaded]:
    with open_site(access, node, tmp_path, "--scaling-interval", "1s") as found:
        yield Loaded(found)


def owner_of_replicas(pool: Object) -> set[str]:
    """Return the field managers of a pool's size."""
    return {
        entry["manager"]
        for entry in pool["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }


@pytest.mark.timeout(900)
def test_a_pool_follows_its_load_and_says_why(loaded: Loaded) -> None:
    site = loaded.site
    site.apply(SCALED, **SPEC)
    site.settle()
    eventually(lambda: site.condition("ScalingActive").get("status") == "True", "it scales")
    loaded.fleet.rate = 20.0  # 2.84 workers of work, 3.34 to hold the TPOT (docs/autoscaling.md)
    eventually(lambda: loaded.size() >= 4, "it grows")
    site.settle()

    def told() -> Object:
        found = site.kube.get("InferenceDeployment", NAME) or {}
        change: Object = found["status"]["pools"][0].get("lastScale", {})
        return change

    change = eventually(told, "the status tells the change")
    assert change["to"] > change["from"]
    assert float(change["inputs"]["level"]) > 0
    pool = site.kube.get("EnginePool", POOL)
    assert pool is not None
    assert owner_of_replicas(pool) == {"penstock-autoscaler"}
    loaded.fleet.rate = 0.0
    loaded.reaches(1)


@pytest.mark.timeout(900)
def test_a_restart_shrinks_nothing_and_forgets_little(loaded: Loaded) -> None:
    site = loaded.site
    site.apply(SCALED, **SPEC)
    site.settle()
    loaded.fleet.rate = 20.0
    eventually(lambda: loaded.size() >= 4, "it grows")
    size = loaded.size()
    site.operator.kill()
    site.gateway.exports = lambda: ""  # and now nobody can tell anything
    site.node.exports.clear()
    site.restart()
    eventually(
        lambda: site.condition("ScalingActive").get("reason") in ("MetricsStale", "Learning"),
        "it says that it sees nothing",
    )
    assert loaded.size() >= size


@pytest.mark.timeout(900)
def test_an_hpa_keeps_its_pool_and_kubectl_does_not(loaded: Loaded) -> None:
    site = loaded.site
    site.apply(SCALED, **SPEC)
    site.settle()
    site.kube.scale("EnginePool", POOL, 6)
    loaded.reaches(1)
    # Through the object itself: before Kubernetes 1.22 a write to a custom resource's scale
    # subresource changes no ownership, later it does.
    size = {"spec": {"replicas": 5}}
    site.kube.merge("EnginePool", POOL, size, manager="kube-controller-manager")
    eventually(
        lambda: site.condition("ScalingActive").get("reason") == "ScaledByAnother",
        "it says who sizes the pool",
    )
    assert loaded.size() == 5
    assert "kube-controller-manager" in site.condition("ScalingActive")["message"]


@pytest.mark.timeout(900)
def test_an_idle_deployment_goes_to_zero_and_comes_back_for_a_request(loaded: Loaded) -> None:
    site = loaded.site
    zero = {**SPEC["autoscaling"], "scaleToZero": {"idle": "3s"}}
    site.apply(SCALED, **{**SPEC, "autoscaling": zero})
    loaded.reaches(0)
    eventually(lambda: not site.pods(), "no pod is left")
    loaded.fleet.queued = 1.0
    loaded.reaches(1)


@pytest.mark.timeout(900)
def test_a_settled_load_is_never_written(loaded: Loaded) -> None:
    """P3: deciding every second changes nothing that is stored."""
    site = loaded.site
    site.apply(SCALED, **SPEC)
    site.settle()
    loaded.fleet.rate = 2.0
    eventually(lambda: site.condition("ScalingActive").get("status") == "True", "it scales")
    site.quiet_for(8)


@pytest.mark.timeout(900)
def test_a_schedule_holds_a_size_while_it_is_open_and_says_so(loaded: Loaded) -> None:
    site = loaded.site
    site.apply(SCALED, **SPEC)
    site.settle()
    bounds = SCALED["scaling"]
    site.apply({**SCALED, "scaling": {**bounds, "schedules": [ALWAYS]}}, **SPEC)
    loaded.reaches(3)
    assert set(site.settle()["pods"].values()) == {3}
    url = f"http://127.0.0.1:{site.operator.port}/explain/{site.kube.namespace}/{NAME}"
    eventually(lambda: "stays at 3" in plain_http.get(url).text, "it was decided")
    words = " ".join(plain_http.get(url).text.split())
    assert "schedules 3 to 8 workers now" in words
    assert re.search(r"always \w+ at least 3, until \w+ 01 Jan 00:00 Europe/Berlin", words), words
    pool = site.kube.get("EnginePool", POOL)
    assert pool is not None
    assert owner_of_replicas(pool) == {"penstock-autoscaler"}
    # Nobody asks for anything: without it, the load has its say again.
    site.apply(SCALED, **SPEC)
    loaded.reaches(1)
    eventually(lambda: "always" not in plain_http.get(url).text, "nor does it name it")
