"""Whatever was there before and whatever came in between, the same spec ends in the same state."""

import copy
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
from waiting import eventually

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


def test_orphans_of_an_earlier_deployment_are_taken_over_with_their_workers(
    site: Site, clean: Clean
) -> None:
    site.apply()
    site.settle()
    workers = {pod["metadata"]["uid"] for pod in site.kube.list("Pod")}
    site.operator.kill()
    for kind, name in (("Service", NAME), ("EnginePool", POOL)):
        site.kube.merge(kind, name, {"metadata": {"ownerReferences": None}})
    site.kube.delete("InferenceDeployment", NAME)
    site.apply()
    site.restart()
    site.reach(clean(site.manifest()))
    assert {pod["metadata"]["uid"] for pod in site.kube.list("Pod")} == workers


def test_what_is_handed_over_by_its_labels_is_taken_over(site: Site, clean: Clean) -> None:
    labels = {"app.kubernetes.io/managed-by": "penstock", "penstock.dev/deployment": NAME}
    meta = {"name": POOL, "labels": {**labels, "left": "over"}}
    site.kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    site.apply()
    wanted = copy.deepcopy(clean(site.manifest()))
    wanted[f"ServiceAccount/{POOL}"]["metadata"]["labels"]["left"] = "over"  # nobody manages it
    site.reach(wanted)


def test_what_lost_its_labels_gets_them_back(site: Site, clean: Clean) -> None:
    site.apply()
    site.settle()
    site.kube.merge("Service", POOL, {"metadata": {"labels": None}})
    site.reach(clean(site.manifest()))


def test_what_somebody_else_has_under_its_name_is_left_alone_and_told(
    site: Site, clean: Clean
) -> None:
    ports = [{"name": "shop", "port": 80, "targetPort": 80, "protocol": "TCP"}]
    spec = {"selector": {"app": "shop"}, "ports": ports}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": spec}
    before = site.kube.apply(service)
    site.apply()
    eventually(lambda: site.condition("PoolsReady").get("reason") == "NameTaken", "told")
    message = site.condition("PoolsReady")["message"]
    assert message.startswith(f"Service {NAME} is not Penstock's; rename one of them")
    assert site.kube.get("Service", NAME) == before
    eventually(lambda: sum(site.pods().values()) == 2, "the rest goes on")
    site.kube.delete("Service", NAME)
    site.reach(clean(site.manifest()))


def test_deployments_whose_objects_would_have_one_name_do_not_fight(site: Site) -> None:
    site.apply()
    before = site.settle()
    site.kube.apply(site.manifest(name=POOL))
    eventually(lambda: site.condition("PoolsReady", POOL).get("reason") == "NameTaken", "told")
    words = f"Service {POOL} belongs to InferenceDeployment {NAME}; rename one of them"
    assert site.condition("PoolsReady", POOL)["message"] == words
    assert state(site.kube)[f"Service/{POOL}"] == before[f"Service/{POOL}"]


def test_the_younger_of_two_deployments_with_one_served_name_is_told(site: Site) -> None:
    model = {"uri": "file:///model", "name": "shared"}
    site.apply(model=model)
    site.settle()
    site.kube.apply(site.manifest(name="other", model=model))
    words = f"spec.model.name: 'shared' is served for {site.kube.namespace}/{NAME}, which is older"

    def told(name: str, kind: str) -> tuple[str, str]:
        found = site.condition(kind, name)
        return found.get("status", ""), found.get("reason", "")

    eventually(lambda: told("other", "Ready") == ("False", "NameTaken"), "told")
    assert site.condition("RouterReady", "other")["message"].startswith(words)
    eventually(lambda: told("other", "PoolsReady") == ("True", "AsDesired"), "its pods run")
    assert told(NAME, "Ready") == ("True", "Serving")
    site.kube.delete("InferenceDeployment", NAME)
    eventually(lambda: told("other", "Ready") == ("True", "Serving"), "the name is handed over")


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
    site.reach(clean(last))


def test_nothing_is_written_once_all_is_as_it_should_be(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    with site(access, node, tmp_path, "--resync", "1s") as found:
        found.apply(*POOLS[3])
        found.settle()
        found.quiet_for(8)
