"""Planning: pools follow the spec, sizes stay with whoever scales, defaults restart nothing."""

from typing import Any

import pytest
from deployments import by_name, deployment, deployments
from hypothesis import given

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.plan import _former_hash, plan, pool_name, rollout_hash

SCALED: dict[str, Any] = {"name": "default", "scaling": {"minReplicas": 2, "maxReplicas": 6}}


def scaled_to(pool: EnginePool, replicas: int) -> dict[str, EnginePool]:
    spec = pool.spec.model_copy(update={"replicas": replicas})
    return by_name((pool.model_copy(update={"spec": spec}),))


def hash_of(infd: InferenceDeployment) -> str:
    return rollout_hash(infd, infd.spec.pools[0])


def test_a_new_deployment_creates_its_pools_with_a_reason() -> None:
    found = plan(deployment(), {})
    assert [(c.verb, c.pool.metadata.name) for c in found.changes] == [("create", "chat-default")]
    assert found.changes[0].reason == "the pool does not exist"
    assert found.pools[0].spec.replicas == 2


@given(deployments())
def test_what_was_applied_needs_no_further_change(infd: InferenceDeployment) -> None:
    assert plan(infd, by_name(plan(infd, {}).pools)).changes == ()


@given(deployments(), deployments())
def test_any_path_of_specs_ends_with_the_pools_of_the_last(
    first: InferenceDeployment, last: InferenceDeployment
) -> None:
    before = by_name(plan(first, {}).pools)
    found = plan(last, before)
    gone = {c.pool.metadata.name for c in found.changes if c.verb == "delete"}
    after = {name: pool for name, pool in before.items() if name not in gone}
    after |= {c.pool.metadata.name: c.pool for c in found.changes if c.verb != "delete"}
    assert after == by_name(found.pools)
    assert plan(last, after).changes == ()


def test_a_pool_that_left_the_spec_is_deleted() -> None:
    both = plan(deployment({"name": "a", "replicas": 1}, {"name": "b", "replicas": 1}), {})
    found = plan(deployment({"name": "a", "replicas": 1}), by_name(both.pools))
    assert [(c.verb, c.pool.metadata.name) for c in found.changes] == [("delete", "chat-b")]


@pytest.mark.parametrize("chosen", [2, 4, 6])
def test_a_scaled_pool_keeps_the_size_that_its_scaler_chose(chosen: int) -> None:
    infd = deployment(SCALED)
    assert plan(infd, scaled_to(plan(infd, {}).pools[0], chosen)).changes == ()


@pytest.mark.parametrize(("chosen", "kept"), [(0, 2), (1, 2), (7, 6)])
def test_a_size_outside_the_bounds_is_brought_inside(chosen: int, kept: int) -> None:
    infd = deployment(SCALED)
    found = plan(infd, scaled_to(plan(infd, {}).pools[0], chosen))
    assert found.pools[0].spec.replicas == kept
    assert "replicas" in found.changes[0].reason


def test_scaling_a_fixed_pool_by_hand_is_not_undone() -> None:
    infd = deployment()
    assert plan(infd, scaled_to(plan(infd, {}).pools[0], 5)).changes == ()


def test_a_changed_fixed_size_overrides_a_scaling_by_hand() -> None:
    scaled = scaled_to(plan(deployment(), {}).pools[0], 5)
    assert plan(deployment({"name": "default", "replicas": 3}), scaled).pools[0].spec.replicas == 3


def test_a_size_is_no_reason_to_restart_workers() -> None:
    assert hash_of(deployment()) == hash_of(deployment({"name": "default", "replicas": 9}))
    assert hash_of(deployment()) == hash_of(deployment(SCALED))


@pytest.mark.parametrize(
    "spec",
    [
        {"slo": {"ttft": {"target": "1s"}}},
        {"queue": {"maxRequests": 1}},
        {"rollout": {"maxSurge": 3}},
        {"routing": {"policy": "RoundRobin"}},
        {"engine": {"blockSize": 16, "maxNumSeqs": 256}},  # the defaults, written out
    ],
)
def test_what_workers_do_not_see_restarts_none(spec: dict[str, Any]) -> None:
    assert hash_of(deployment(**spec)) == hash_of(deployment())


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"uri": "pvc://models/other"}},
        {"model": {"uri": "pvc://models/llama", "revision": "v2"}},
        {"model": {"uri": "pvc://models/llama", "aliases": ["gpt"]}},
        {"engine": {"blockSize": 32}},
        {"engine": {"extraArgs": ["--log-level", "debug"]}},
    ],
)
def test_what_workers_are_started_with_makes_a_new_revision(spec: dict[str, Any]) -> None:
    assert hash_of(deployment(**spec)) != hash_of(deployment())


def test_the_rollout_hash_never_changes_between_versions() -> None:
    # A different value here restarts every worker of every user at the next upgrade.
    assert hash_of(deployment()) == "517de4545d2febf1"


def test_names_of_pools_fit_a_service_and_belong_to_one_pool() -> None:
    assert len(pool_name("d" * 40, "p" * 40)) <= 63
    assert pool_name("a-b", "c") != pool_name("a", "b-c")


def with_adapters(*adapters: dict[str, Any], **more: Any) -> InferenceDeployment:
    return deployment(model={"uri": "hf://org/m", "adapters": list(adapters)}, **more)


SQL = {"name": "sql", "uri": "hf://org/sql"}
LAW = {"name": "law", "uri": "s3://loras/law"}


def test_adapters_that_are_downloaded_come_and_go_without_a_new_revision() -> None:
    some = hash_of(with_adapters(SQL))
    elsewhere = {**SQL, "uri": "gs://other/sql"}
    for others in ([SQL, LAW], [LAW], [elsewhere], [{**SQL, "revision": "2"}]):
        assert hash_of(with_adapters(*others)) == some
    mounted = {"name": "mine", "uri": "pvc://loras/mine"}
    assert hash_of(with_adapters(SQL, mounted)) != some
    assert hash_of(with_adapters()) != some, "room for them is another pod"
    room = {"lora": {"maxAdapters": 8}}
    ready = hash_of(with_adapters(engine=room))
    assert hash_of(with_adapters(SQL, LAW, engine=room)) == ready


def test_adapters_of_replicas_that_span_nodes_are_a_part_of_the_revision() -> None:
    wide = {"name": "default", "replicas": 1, "parallelism": {"tensor": 2, "nodes": 2}}
    found = [
        deployment(wide, model={"uri": "hf://org/m", "adapters": adapters})
        for adapters in ([SQL], [SQL, LAW])
    ]
    assert hash_of(found[0]) != hash_of(found[1])


def test_workers_from_before_adapters_came_and_went_are_left_alone_until_a_change() -> None:
    infd = with_adapters(SQL)
    (pool,) = plan(infd, {}).pools
    former = _former_hash(infd, infd.spec.pools[0])
    assert former != pool.spec.rollout_hash
    spec = pool.spec.model_copy(update={"rollout_hash": former})
    stored = by_name((pool.model_copy(update={"spec": spec}),))
    assert plan(infd, stored).changes == ()
    (changed,) = plan(with_adapters(SQL, LAW), stored).pools
    assert changed.spec.rollout_hash == pool.spec.rollout_hash
