"""Which pods the autoscaler counts."""

from dataclasses import replace

from deployments import deployment

from penstock_operator.autoscaling.sources import Target
from penstock_operator.cluster.cache import Key
from penstock_operator.cluster.measured import targets_of, topology_of
from penstock_operator.cluster.observed import Pod
from penstock_operator.plan import plan

SERVING = Pod(
    uid="1", name="a", pool="default", revision="r", version="1", ready=True, deleting=False,
    draining=False, address="10.0.0.1", failing="", waiting="", starting=False, unschedulable="",
)  # fmt: skip


def test_an_evicted_pod_is_neither_a_start_nor_a_worker() -> None:
    """Counted as a start, it would keep its pool from being idle for as long as it is kept."""
    starting = replace(SERVING, name="b", ready=False, address="")
    draining = replace(SERVING, name="c", draining=True)
    evicted = replace(SERVING, name="d", ready=False, over=True)
    late = replace(SERVING, name="e", over=True)  # ended before its readiness was taken back
    pods = [SERVING, starting, draining, evicted, late]
    infd = deployment({"name": "default", "scaling": {"maxReplicas": 8}})
    (pool,) = topology_of(infd, plan(infd, {}).pools, pods, [Target("g", "", ())]).pools
    assert (pool.ready, pool.starting, pool.draining) == (1, 1, 1)
    assert pool.workers == ("a", "c")
    assert [target.id for target in targets_of(Key("default", "chat"), pods)] == ["a", "c"]
