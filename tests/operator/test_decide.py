"""The operator's decision against a store that does what an API server would."""

import json
from dataclasses import replace
from typing import Any

import pytest
from deployments import deployment
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import SERVED, SETTINGS, Store

from penstock_contract.api import InferenceDeployment
from penstock_contract.fleet import WorkerLoad, WorkerState
from penstock_contract.labels import DELETION_COST
from penstock_operator.cluster.actions import (
    Delete,
    Mark,
    Merge,
)
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.observed import Gateways, Observed
from penstock_operator.cluster.rollout_state import COSTS_COUNT, UNREADY_WITHIN

Object = dict[str, Any]


def shape(store: Store) -> dict[str, Object]:
    """Return what can be compared between two stores."""
    drop = {"uid", "resourceVersion", "generation", "observedGeneration", "lastTransitionTime"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in drop}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return {
        f"{kind}/{name}": plain(found)
        for (kind, name), found in store.objects.items()
        if kind != "Pod"
    }


def test_a_spec_becomes_pools_workers_and_what_stands_around_them() -> None:
    store = Store(deployment({"name": "default", "replicas": 2}))
    store.settle()
    kinds = sorted({kind for kind, _ in store.objects})
    assert kinds == [
        *("Deployment", "EnginePool", "InferenceDeployment", "NetworkPolicy", "Pod"),
        *("PodDisruptionBudget", "Service", "ServiceAccount"),
    ]
    assert len(store.of("Pod")) == 2
    conditions = store.of("InferenceDeployment")[0]["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions}["Ready"] == "True"


def test_once_all_is_right_nothing_is_done() -> None:
    store = Store(deployment())
    store.settle()
    assert decide(store.observed(), SETTINGS).actions == ()


def test_whoever_scales_a_pool_keeps_it_until_the_spec_names_another_number() -> None:
    store = Store(deployment({"name": "default", "replicas": 2}))
    store.settle()
    name = store.of("EnginePool")[0]["metadata"]["name"]
    pool = store.objects["EnginePool", name]
    pool["spec"]["replicas"] = 5
    store.settle()
    assert len(store.of("Pod")) == 5
    store.spec(deployment({"name": "default", "replicas": 2}, engine={"image": "other:2"}))
    store.settle()
    assert len(store.of("Pod")) == 5
    store.spec(deployment({"name": "default", "replicas": 1}, engine={"image": "other:2"}))
    store.settle()
    assert len(store.of("Pod")) == 1


def test_the_emptiest_is_chosen_once_the_gateways_have_told_of_this_moment() -> None:
    store = Store(deployment({"name": "default", "replicas": 3}))
    store.settle()
    store.spec(deployment({"name": "default", "replicas": 2}))
    busy, idle, busier = (found.uid for found in store.observed().pods)
    tokens = {busy: 40, idle: 7, busier: 900}
    loads = {
        u: WorkerLoad(state=WorkerState.READY, outstanding_tokens=t) for u, t in tokens.items()
    }
    seen = replace(store.observed(), gateways=Gateways(True, None, loads, fresh=False))
    early = decide(seen, SETTINGS)
    assert not any(isinstance(action, Mark) for action in early.actions)
    assert early.drains
    assert early.again_in is not None
    now = replace(seen, gateways=replace(seen.gateways, fresh=True))
    marks = [action for action in decide(now, SETTINGS).actions if isinstance(action, Mark)]
    assert [mark.pod for mark in marks] == [p.name for p in now.pods if p.uid == idle]
    assert int(marks[0].patch["metadata"]["annotations"][DELETION_COST]) < 0


def test_a_pod_that_was_evicted_is_no_worker_and_brings_none() -> None:
    store = Store(deployment({"name": "default", "replicas": 2}))
    store.settle()
    labels = store.of("Pod")[0]["metadata"]["labels"]
    evicted = {"name": "evicted", "labels": labels, "annotations": {}, "ownerReferences": []}
    store.put({"kind": "Pod", "metadata": evicted, "status": {"phase": "Failed"}})
    assert decide(store.observed(), SETTINGS).actions == ()
    assert not decide(store.observed(), SETTINGS).drains
    store.spec(deployment({"name": "other", "replicas": 1}))
    store.settle()
    assert [pool["spec"]["pool"] for pool in store.of("EnginePool")] == ["other"]


def test_before_deletion_costs_a_pool_shrinks_once_the_drained_worker_is_not_ready() -> None:
    store = Store(deployment({"name": "default", "replicas": 2}), SERVED - {COSTS_COUNT})
    store.settle()
    store.spec(deployment({"name": "default", "replicas": 1}))
    for action in decide(store.observed(), SETTINGS).actions:
        store.act(action)
    observed = store.observed()
    drained = next(found for found in observed.pods if found.draining)
    assert not shrinks(observed)
    unready = replace(drained, ready=False, whole=False)
    pods = tuple(unready if found is drained else found for found in observed.pods)
    assert shrinks(replace(observed, pods=pods))
    untold = replace(observed, since={drained.uid: observed.now - UNREADY_WITHIN})
    assert shrinks(untold)
    assert shrinks(replace(observed, served=SERVED))


def shrinks(observed: Observed) -> bool:
    actions = decide(observed, SETTINGS).actions
    return any(isinstance(action, Merge) and action.kind == "Deployment" for action in actions)


def test_a_pool_that_leaves_is_drained_then_deleted() -> None:
    both = ({"name": "a", "replicas": 1}, {"name": "b", "replicas": 2})
    store = Store(deployment(*both))
    store.settle()
    store.spec(deployment(both[0]))
    first = decide(store.observed(), SETTINGS)
    assert not any(isinstance(action, Delete) for action in first.actions)
    assert sum(isinstance(action, Mark) for action in first.actions) == 2
    store.settle()
    assert [p["spec"]["pool"] for p in store.of("EnginePool")] == ["a"]
    assert len(store.of("Pod")) == 1


def test_a_name_that_somebody_else_owns_is_left_alone_and_told() -> None:
    store = Store(deployment())
    owner = {"kind": "Team", "name": "other", "uid": "theirs", "controller": True}
    name = store.of("InferenceDeployment")[0]["metadata"]["name"]
    metadata = {"name": name, "ownerReferences": [owner]}
    store.put({"kind": "Service", "metadata": metadata, "spec": {}})
    store.settle()
    assert store.objects["Service", name]["spec"] == {}
    conditions = store.of("InferenceDeployment")[0]["status"]["conditions"]
    told = {c["type"]: c for c in conditions}["PoolsReady"]
    assert told["reason"] == "NameTaken"
    assert "Team other" in told["message"]


@pytest.mark.parametrize("kind", ["EnginePool", "Service", "Deployment"])
def test_what_belongs_to_an_earlier_owner_of_the_same_name_goes_first(kind: str) -> None:
    store = Store(deployment())
    store.settle()
    wanted = shape(store).keys()
    left = next(found for found in store.of(kind) if found["metadata"]["ownerReferences"])
    left["metadata"]["ownerReferences"][0]["uid"] = "of-an-earlier-one"
    before = json.dumps(left)
    store.settle()
    name = left["metadata"]["name"]
    assert json.dumps(store.objects[kind, name]) == before
    conditions = store.of("InferenceDeployment")[0]["status"]["conditions"]
    told = {c["type"]: c for c in conditions}["PoolsReady"]
    assert told["reason"] == "Updating"
    assert f"{kind} {name} belongs to an earlier" in told["message"]
    store.collect(kind, name)
    store.settle()
    assert shape(store).keys() == wanted
    assert not any("earlier" in json.dumps(found) for found in store.of("InferenceDeployment"))


def test_a_spec_that_cannot_be_built_leaves_what_runs() -> None:
    store = Store(deployment({"name": "default", "replicas": 2}))
    store.settle()
    before = [p["metadata"]["name"] for p in store.of("Pod")]
    model = {"uri": "pvc://m", "adapters": [{"name": "a", "uri": "file://a"}]}
    store.spec(deployment({"name": "default", "replicas": 2}, model=model))
    store.settle()
    assert [p["metadata"]["name"] for p in store.of("Pod")] == before
    conditions = store.of("InferenceDeployment")[0]["status"]["conditions"]
    assert {c["type"]: c["reason"] for c in conditions}["PoolsReady"] == "UnsupportedSpec"


POOLS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda pool: pool[0],
)


def of(pools: list[tuple[str, int]], image: str) -> InferenceDeployment:
    """Return a deployment of named pools with sizes."""
    return deployment(*({"name": n, "replicas": r} for n, r in pools), engine={"image": image})


@settings(max_examples=40, deadline=None)
@given(
    path=st.lists(st.tuples(POOLS, st.sampled_from(["w:1", "w:2"])), min_size=1, max_size=3),
    lost=st.lists(st.integers(0, 30), max_size=6),
)
def test_any_path_and_any_loss_ends_as_a_clean_install(
    path: list[tuple[list[tuple[str, int]], str]], lost: list[int]
) -> None:
    store = Store(of(*path[0]))
    for spec in path[1:]:
        store.settle()
        store.spec(of(*spec))
    store.settle()
    children = [key for key in store.objects if key[0] not in ("InferenceDeployment", "Pod")]
    for index in lost:
        key = children[index % len(children)]
        if key in store.objects:
            store.collect(*key)
    store.settle()
    clean = Store(of(*path[-1]))
    clean.settle()
    assert shape(store).keys() == shape(clean).keys()
    assert len(store.of("Pod")) == len(clean.of("Pod"))


@pytest.mark.parametrize("missing", ["policy/v1/PodDisruptionBudget", "v1/ServiceAccount"])
def test_what_the_cluster_does_not_serve_is_left_out(missing: str) -> None:
    store = Store(deployment(), SERVED - {missing})
    store.settle()
    assert not store.of(missing.rpartition("/")[2])
