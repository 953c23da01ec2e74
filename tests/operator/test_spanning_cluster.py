"""The whole operator and replicas that span nodes, in a cluster that has just enough of these."""

from typing import Any

from deployments import deployment
from hypothesis import given, settings
from hypothesis import strategies as st
from spanning_cluster import SpanningCluster

from penstock_contract.api import InferenceDeployment

SETTLED = 3600.0
"""Seconds in which everything comes to rest."""


def spanning(replicas: int, nodes: int, revision: str = "", **rollout: Any) -> InferenceDeployment:
    pool: dict[str, Any] = {
        "name": "default",
        "replicas": replicas,
        "parallelism": {"tensor": 4, "nodes": nodes},
        "resources": {"limits": {"nvidia.com/gpu": 4 // nodes}},
        "template": {"env": {"REVISION": revision}},
    }
    return deployment(pool, engine={"type": "VLLM"}, rollout=rollout)


def test_replicas_that_lose_their_nodes_at_once_leave_one_that_serves() -> None:
    cluster = SpanningCluster(spanning(3, 2), nodes=6, loads=60.0, seed=1)
    cluster.run(600)
    assert cluster.ready() == 3
    cluster.nodes = 3
    for _ in range(3):
        cluster.lose(serve=False)
    cluster.run(SETTLED)
    assert cluster.ready() == 1
    assert cluster.run(600) == 0, "nothing is written while nothing happens"
    cluster.nodes = 6
    cluster.run(SETTLED)
    assert cluster.ready() == 3


def test_a_rollout_of_slow_replicas_lasts_and_arrives() -> None:
    cluster = SpanningCluster(spanning(3, 2), nodes=8, loads=60.0, seed=1)
    cluster.run(600)
    cluster.loads = 1500.0
    cluster.spec(spanning(3, 2, "next"))
    cluster.run(3 * SETTLED)
    assert revisions(cluster) == {"next"}
    assert cluster.ready() == 3


def test_a_canary_may_be_watched_for_longer_than_a_worker_may_load() -> None:
    cluster = SpanningCluster(spanning(3, 2), nodes=8, loads=60.0, seed=1)
    cluster.run(600)
    cluster.spec(spanning(3, 2, "next", canary={"weight": 20, "pause": "40m"}))
    cluster.run(600)
    assert revisions(cluster) == {"", "next"}
    cluster.run(SETTLED)
    assert revisions(cluster) == {"next"}


def revisions(cluster: SpanningCluster) -> set[str]:
    """Return what the pools' workers run, as `spanning` calls it."""
    workloads = [one for one in cluster.of("Deployment") if one["spec"]["replicas"]]
    containers = [one["spec"]["template"]["spec"]["containers"][0] for one in workloads]
    variables = [variable for container in containers for variable in container["env"]]
    return {one["value"] for one in variables if one["name"] == "REVISION"}


SPECS = st.builds(spanning, st.integers(0, 3), st.sampled_from([1, 2, 4]), st.sampled_from("ab"))


@settings(max_examples=15, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.one_of(st.booleans(), SPECS), st.integers(1, 60)), min_size=1, max_size=6
    ),
    seed=st.integers(0, 1000),
)
def test_any_path_of_specs_and_losses_ends_with_whole_replicas(
    moves: list[tuple[bool | InferenceDeployment, int]], seed: int
) -> None:
    last = spanning(2, 2)
    cluster = SpanningCluster(last, nodes=16, loads=60.0, seed=seed)
    for move, steps in moves:
        if isinstance(move, bool):
            cluster.lose(serve=move)
        else:
            last = move
            cluster.spec(move)
        cluster.run(10.0 * steps)
    cluster.run(SETTLED)
    (pool,) = last.spec.pools
    wanted = pool.replicas or 0
    assert cluster.ready() == wanted
    assert len(cluster.of("Pod")) == wanted * pool.parallelism.nodes
    assert cluster.run(300) == 0
