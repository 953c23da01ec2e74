"""Replicas that span nodes, against a real API server, its scheduler and its garbage collector."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import FakeNode
from kube import Access, Object
from operated import NAME, Site
from operated import site as open_site
from waiting import eventually

from penstock_contract.labels import DEPLOYMENT, LEADER

Clean = Callable[[Object], dict[str, Any]]
GPU = "nvidia.com/gpu"


def spanning(replicas: int = 1, nodes: int = 2, **pool: Any) -> Object:
    over = {"tensor": nodes, "nodes": nodes}
    return {"name": "default", "replicas": replicas, "parallelism": over, **pool}


def groups(site: Site) -> dict[str, list[str]]:
    """Return the names of leaders, each with those of its followers; none is being deleted."""
    leaders, followers = site.kube.list("Pod", DEPLOYMENT), site.kube.list("Pod", LEADER)
    uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in leaders}
    found: dict[str, list[str]] = {name: [] for name in uids}
    for pod in followers:
        (owner,) = pod["metadata"]["ownerReferences"]
        if uids.get(owner["name"]) == owner["uid"]:
            found[owner["name"]].append(pod["metadata"]["name"])
    return found


def whole(site: Site, replicas: int, nodes: int = 2) -> bool:
    """Return whether there are so many whole replicas, and nothing else."""
    found = groups(site)
    pods = site.kube.list("Pod")
    complete = all(len(followers) == nodes - 1 for followers in found.values())
    return complete and len(found) == replicas and len(pods) == replicas * nodes


def uids(site: Site) -> set[str]:
    return {pod["metadata"]["uid"] for pod in site.kube.list("Pod")}


def test_followers_come_with_their_leaders_and_go_with_them(site: Site) -> None:
    site.apply(spanning(replicas=2, nodes=3))
    site.settle()
    assert whole(site, 2, nodes=3)
    for leader, followers in groups(site).items():
        assert sorted(followers) == [f"{leader}-1", f"{leader}-2"]
    site.apply(spanning(replicas=1, nodes=3))
    eventually(lambda: whole(site, 1, nodes=3), "one is left, with its followers")
    site.apply(spanning(replicas=0, nodes=3))
    eventually(lambda: not site.kube.list("Pod"), "nothing is left")
    site.apply(spanning(nodes=3))
    site.settle()
    site.kube.delete("InferenceDeployment", NAME)
    eventually(site.empty, "nothing is left of the deployment")


def test_a_leader_that_is_deleted_takes_its_followers_along(site: Site) -> None:
    site.apply(spanning())
    site.settle()
    before = uids(site)
    (leader,) = groups(site)
    site.kube.delete("Pod", leader)
    eventually(lambda: whole(site, 1) and not before & uids(site), "another replica")
    site.settle()


def test_a_follower_that_is_deleted_comes_again_and_the_group_meets(site: Site) -> None:
    site.apply(spanning(replicas=2))
    site.settle()
    before = groups(site)
    (follower,) = next(iter(before.values()))
    old = uids(site)
    site.kube.delete("Pod", follower)
    eventually(lambda: whole(site, 2) and uids(site) != old, "another follower")
    site.settle()
    assert groups(site) == before, "it has the name of the one before"
    assert len(old - uids(site)) == 1, "all others stayed"


def test_a_rollout_replaces_replicas_as_a_whole(site: Site, clean: Clean) -> None:
    site.apply(spanning(replicas=2))
    site.settle()
    site.apply(spanning(replicas=2), image="worker:2")
    site.reach(clean(site.manifest(spanning(replicas=2), image="worker:2")))
    eventually(lambda: whole(site, 2), "whole replicas only")
    images = {pod["spec"]["containers"][0]["image"] for pod in site.kube.list("Pod")}
    assert images == {"worker:2"}


def test_an_operator_that_is_started_anew_takes_them_over_and_is_quiet(site: Site) -> None:
    site.apply(spanning(replicas=2))
    site.settle()
    before = uids(site)
    site.operator.kill()
    (follower,) = next(iter(groups(site).values()))
    site.kube.delete("Pod", follower)
    site.restart()
    eventually(lambda: whole(site, 2), "the one that was lost meanwhile comes again")
    site.settle()
    assert len(before - uids(site)) == 1
    site.quiet_for(5)
    site.proxy.expire_watches()
    site.quiet_for(5)
    assert len(before - uids(site)) == 1


def test_a_quota_that_has_no_room_for_followers_is_told(site: Site) -> None:
    hard = {"hard": {"pods": "1"}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    site.kube.create({**quota, "spec": hard})
    site.apply(spanning())
    eventually(lambda: "exceeded quota" in site.condition("PoolsReady").get("message", ""), "told")
    assert site.condition("PoolsReady")["reason"] == "PodsFailing"
    site.kube.delete("ResourceQuota", "small")
    site.settle()


@pytest.fixture
def crowded(access: Access, tmp_path: Path) -> Iterator[Site]:
    """A namespace whose pods find three GPUs."""
    with FakeNode(access, {GPU: "3"}) as node, open_site(access, node, tmp_path) as site:
        yield site


def test_replicas_do_not_keep_each_other_from_their_nodes(crowded: Site) -> None:
    crowded.apply(spanning(replicas=3, resources={"limits": {GPU: 1}}))
    eventually(lambda: "1 of 3 workers ready" in told(crowded), "one has all its nodes")
    eventually(lambda: "Insufficient nvidia.com/gpu" in told(crowded), "the next one lacks one")
    found = groups(crowded)
    assert len(found) == 2, "a third would only stand in the way of the second"
    half = next(leader for leader in found if f"(follower {leader}-1)" in told(crowded))
    assert crowded.condition("PoolsReady")["reason"] == "InsufficientCapacity"
    crowded.quiet_for(3)
    crowded.node.devices = {GPU: "6"}
    eventually(lambda: whole(crowded, 3), "all find their nodes")
    crowded.settle()
    assert half in groups(crowded)


def told(site: Site) -> str:
    return str(site.condition("PoolsReady").get("message", ""))
