"""A new revision on trial gets its share, then everything, or nothing more."""

import itertools

from kube import Object
from operated import Site
from waiting import eventually

POOL: Object = {"name": "default", "replicas": 2}


def on_trial(site: Site) -> Object:
    found = site.kube.get("EnginePool", "chat-default") or {}
    canary: Object = found.get("status", {}).get("canary") or {}
    return canary


def images(site: Site) -> set[str]:
    return {
        pod["spec"]["containers"][0]["image"]
        for pod in site.kube.list("Pod")
        if "deletionTimestamp" not in pod["metadata"]
    }


def test_a_canary_gets_its_share_and_then_everything(site: Site) -> None:
    rollout = {"canary": {"weight": 25, "pause": "4s"}}
    site.apply(POOL, rollout=rollout)
    site.settle()
    site.apply(POOL, image="worker:2", rollout=rollout)
    both = {"worker:1", "worker:2"}
    canary = eventually(lambda: on_trial(site) if images(site) == both else {}, "on trial")
    assert canary["weight"] == 25
    site.settle()
    assert images(site) == {"worker:2"}
    eventually(lambda: on_trial(site) == {}, "the trial is over")


def test_a_canary_that_fails_requests_is_taken_back(site: Site) -> None:
    rollout = {"canary": {"weight": 25, "pause": "60s"}}
    site.apply(POOL, rollout=rollout)
    before = site.settle()
    asked = itertools.count(1)

    def counts(pod: Object) -> Object:
        bad = pod["spec"]["containers"][0]["image"] == "worker:2"
        requests = 50 * next(asked)
        return {"requests": requests, "failures": requests // 2 if bad else 0}

    site.gateway.tell = counts
    site.apply(POOL, image="worker:2", rollout=rollout)
    eventually(lambda: site.condition("RolloutComplete").get("reason") == "RolledBack", "back")
    eventually(lambda: images(site) == {"worker:1"}, "the old revision alone")
    assert site.condition("Ready")["status"] == "True"
    eventually(lambda: site.pods() == before["pods"], "no other pod is left")
    site.quiet_for(3)
    site.gateway.tell = lambda _pod: {}
    site.apply(POOL, image="worker:3")
    site.settle()
    assert images(site) == {"worker:3"}
