"""Who serves is never fewer than promised, and nobody is ended who was not drained."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kube import Kube, Object
from operated import NAME, Site
from waiting import eventually

Clean = Callable[[Object], dict[str, Any]]
DRAINING = "penstock.dev/draining"
POOL = f"{NAME}-default"


class PodLog:
    """Every change of the namespace's pods, as the API server tells it."""

    def __init__(self, site: Site) -> None:
        self.available: list[int] = []
        """Workers that are ready and not leaving, after each change."""
        self.rude: list[str] = []
        """Pods that were ended though the gateway had not confirmed their drain."""
        self._pods: dict[str, Object] = {}
        self._ended: set[str] = set()
        self._site = site

    def see(self, event: str, pod: Object) -> None:
        uid, meta = pod["metadata"]["uid"], pod["metadata"]
        self._pods[uid] = pod
        if "deletionTimestamp" in meta and uid not in self._ended:
            self._ended.add(uid)
            if uid not in self._site.gateway.confirmed:
                self.rude.append(meta["name"])
        if event == "DELETED":
            del self._pods[uid]
        self.available.append(sum(map(serves, self._pods.values())))


def serves(pod: Object) -> bool:
    """Return whether the gateway sends a worker new requests."""
    meta = pod["metadata"]
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])
    )
    return ready and "deletionTimestamp" not in meta and DRAINING not in meta.get("annotations", {})


@contextmanager
def watched(site: Site) -> Iterator[PodLog]:
    """Keep a log of the pods, beginning with those that are there."""
    log, stop = PodLog(site), threading.Event()
    with Kube(site.kube.access, site.kube.namespace) as kube:
        listed = kube.http.get(kube.path("Pod")).json()
        for pod in listed["items"]:
            log.see("ADDED", pod)
        del log.available[:-1]
        start = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}

        def follow() -> None:
            with kube.http.stream("GET", kube.path("Pod"), params=start, timeout=None) as events:
                for line in events.iter_lines():
                    event = json.loads(line)
                    log.see(event["type"], event["object"])
                    if stop.is_set() and event["object"]["metadata"]["name"] == "last":
                        return

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield log
        finally:
            stop.set()
            kube.create(LAST)
            thread.join()


LAST: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "last"},
    "spec": {"containers": [{"name": "c", "image": "none"}], "schedulerName": "nobody"},
}
"""Its creation marks the end of a log."""


@pytest.mark.parametrize(
    ("surge", "unavailable", "least"), [(1, 0, 3), (0, 1, 2), (2, 2, 1)], ids=str
)
def test_an_update_keeps_what_it_promises(
    site: Site, surge: int, unavailable: int, least: int
) -> None:
    pools = {"name": "default", "replicas": 3}
    rollout = {"maxSurge": surge, "maxUnavailable": unavailable}
    site.apply(pools, rollout=rollout)
    site.settle()
    with watched(site) as log:
        site.apply(pools, image="worker:2", rollout=rollout)
        site.settle()
    assert min(log.available) >= least
    assert log.rude == []


def test_scaling_down_ends_the_drained_and_no_others(site: Site) -> None:
    site.apply({"name": "default", "replicas": 4})
    site.settle()
    with watched(site) as log:
        site.apply({"name": "default", "replicas": 1})
        eventually(lambda: site.settled() and sum(site.pods().values()) == 1, "one left")
    assert min(log.available) >= 1
    assert log.rude == []


def test_scaling_down_ends_those_with_the_least_to_do(site: Site) -> None:
    loads, tokens = iter((500, 3, 700, 20)), dict[str, int]()

    def load(pod: Object) -> Object:
        uid = pod["metadata"]["uid"]
        if uid not in tokens:
            tokens[uid] = next(loads)
        return {"outstanding_tokens": tokens[uid]}

    site.gateway.tell = load
    site.apply({"name": "default", "replicas": 4})
    site.settle()
    site.apply({"name": "default", "replicas": 2})
    eventually(lambda: site.settled() and sum(site.pods().values()) == 2, "two left")
    left = {pod["metadata"]["uid"] for pod in site.kube.list("Pod")}
    assert sorted(tokens[uid] for uid in left) == [500, 700]


def test_a_pool_that_leaves_the_spec_is_drained_first(site: Site) -> None:
    stays = {"name": "default", "replicas": 1}
    site.apply(stays, {"name": "more", "replicas": 2})
    site.settle()
    with watched(site) as log:
        site.apply(stays)
        eventually(lambda: site.settled() and sum(site.pods().values()) == 1, "pool gone")
    assert log.rude == []


def test_nobody_is_ended_while_the_gateway_does_not_confirm(site: Site) -> None:
    site.apply({"name": "default", "replicas": 2})
    site.settle()
    site.gateway.confirms = False
    with watched(site) as log:
        site.apply({"name": "default", "replicas": 1})
        eventually(lambda: any("draining" in pod for pod in site.pods()), "draining")
        site.quiet_for(2)
        assert sum(site.pods().values()) == 2
        site.gateway.confirms = True
        eventually(lambda: sum(site.pods().values()) == 1, "one left")
    assert log.rude == []


def test_a_pool_scaled_by_others_keeps_its_size(watchful: Site) -> None:
    site = watchful
    site.apply()
    site.settle()
    site.kube.scale("EnginePool", POOL, 4)
    eventually(lambda: site.settled() and sum(site.pods().values()) == 4, "scaled by hand")
    site.apply(image="worker:2")
    site.settle()
    site.quiet_for(5)
    assert sum(site.pods().values()) == 4
    site.apply({"name": "default", "replicas": 1}, image="worker:2")
    eventually(lambda: site.settled() and sum(site.pods().values()) == 1, "the spec's new size")
