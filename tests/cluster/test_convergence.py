"""Whatever was there before and whatever came in between, the same spec ends in the same state."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_state import state
from fake_node import FakeNode
from kube import Access, Object
from operated import NAME, Site, site

Clean = Callable[[Object], dict[str, Any]]
POOL = f"{NAME}-default"
EDITS: dict[str, tuple[str, Object]] = {
    "Service": ("Service", {"spec": {"selector": {"penstock.dev/pool": "other"}}}),
    "labels": ("Service", {"metadata": {"labels": {"penstock.dev/pool": None}}}),
    "PodDisruptionBudget": ("PodDisruptionBudget", {"spec": {"maxUnavailable": 7}}),
    "NetworkPolicy": ("NetworkPolicy", {"spec": {"ingress": None}}),
    "ServiceAccount": ("ServiceAccount", {"automountServiceAccountToken": True}),
    "owner": ("Service", {"metadata": {"ownerReferences": None}}),
}


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"])
def test_a_deleted_child_comes_back(site: Site, clean: Clean, kind: str) -> None:
    site.apply()
    site.settle()
    for child in site.kube.list(kind):
        site.kube.delete(kind, child["metadata"]["name"])
    site.reach(clean(site.manifest()))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_foreign_edit_is_undone(site: Site, clean: Clean, edit: tuple[str, Object]) -> None:
    site.apply()
    site.settle()
    kind, patch = edit
    site.kube.merge(kind, POOL, patch)
    site.reach(clean(site.manifest()))


def test_a_workload_that_was_resized_by_hand_gets_its_size_back(site: Site, clean: Clean) -> None:
    site.apply()
    site.settle()
    workload = site.kube.list("Deployment")[0]["metadata"]["name"]
    site.kube.scale("Deployment", workload, 5)
    site.reach(clean(site.manifest()))


def test_what_changed_while_the_operator_was_away_is_put_right(site: Site, clean: Clean) -> None:
    site.apply()
    site.settle()
    site.operator.kill()
    site.kube.delete("PodDisruptionBudget", POOL)
    site.kube.merge("Service", POOL, EDITS["Service"][1])
    site.kube.merge("EnginePool", POOL, {"spec": {"rolloutHash": "0" * 16}})
    for workload in site.kube.list("Deployment"):
        site.kube.delete("Deployment", workload["metadata"]["name"])
    site.restart()
    site.reach(clean(site.manifest()))


def test_leftovers_under_its_names_are_taken_over(site: Site, clean: Clean) -> None:
    labels = {"labels": {"left": "over"}}
    selector = {"matchLabels": {"app": "stranger"}}
    site.kube.create(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": POOL},
            "spec": {"podSelector": selector, "policyTypes": ["Ingress"]},
        }
    )
    site.kube.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": POOL, **labels}}
    )
    site.apply()
    wanted = clean(site.manifest())
    site.settle()
    found = state(site.kube)
    account = found[f"ServiceAccount/{POOL}"]
    assert account["metadata"]["labels"].pop("left") == "over", "what nobody manages stays"
    policy = found[f"NetworkPolicy/{POOL}"]["spec"]["podSelector"]["matchLabels"]
    policy.pop("app", None)
    assert found == wanted


POOLS: list[tuple[Object, ...]] = [
    ({"name": "default", "replicas": 1},),
    ({"name": "default", "replicas": 3},),
    ({"name": "default", "replicas": 0},),
    ({"name": "default", "replicas": 2}, {"name": "more", "replicas": 1}),
    (
        {"name": "p", "role": "Prefill", "replicas": 1},
        {"name": "d", "role": "Decode", "replicas": 1},
    ),
]


@pytest.mark.parametrize("seed", range(4))
def test_every_path_of_specs_ends_as_the_direct_one(site: Site, clean: Clean, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        site.apply(*chance.choice(POOLS), image=chance.choice(["worker:1", "worker:2"]))
        time.sleep(chance.choice([0, 0.2, 1.5]))
    last = site.manifest(*POOLS[3], image="worker:3")
    site.kube.apply(last)
    site.reach(clean(last), within=120)


def test_nothing_is_written_once_all_is_as_it_should_be(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    with site(access, node, tmp_path, "--resync", "1s") as found:
        found.apply(*POOLS[3])
        found.settle()
        found.quiet_for(2)
        before = len(found.proxy.writes)
        time.sleep(6)
        assert [str(call) for call in found.proxy.writes[before:]] == []
