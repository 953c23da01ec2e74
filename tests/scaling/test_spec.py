"""What the autoscaler reads out of a deployment."""

from datetime import UTC, datetime
from typing import Any

import pytest
from deployments import deployment

from penstock_operator.scaling.schedules import by_the_clock
from penstock_operator.scaling.spec import ScalingSpec, scaling_spec


@pytest.mark.parametrize(
    ("parallelism", "gpus"),
    [({"tensor": 8}, 8), ({"tensor": 8, "pipeline": 2, "nodes": 2}, 16)],
    ids=["one node", "two nodes"],
)
def test_a_budget_counts_the_gpus_of_whole_replicas(parallelism: Any, gpus: int) -> None:
    pool = {
        "name": "default",
        "scaling": {"minReplicas": 1, "maxReplicas": 4},
        "parallelism": parallelism,
        "resources": {"limits": {"nvidia.com/gpu": 8}},
    }
    spec = scaling_spec(deployment(pool, engine={"type": "VLLM"}), lead=60.0)
    assert [bounds.gpus for bounds in spec.pools] == [gpus]


def spanning(nodes: int, most: int, step: int = 4, **scaling: Any) -> ScalingSpec:
    """Return what is read of a pool whose replicas come 20 s apart when they span nodes."""
    pool = {
        "name": "default",
        "scaling": {"minReplicas": 1, "maxReplicas": most, **scaling},
        "parallelism": {"tensor": 8, "pipeline": 2, "nodes": nodes},
        "resources": {"limits": {"nvidia.com/gpu": 8}},
    }
    behavior = {"scaleUp": {"maxStep": step}}
    found = deployment(pool, engine={"type": "VLLM"}, autoscaling={"behavior": behavior})
    return scaling_spec(found, lead=60.0, apart=20.0)


@pytest.mark.parametrize(
    ("nodes", "most", "step", "lead"),
    [
        (1, 8, 4, 60.0),  # replicas of one node start together
        (2, 8, 4, 120.0),  # the last of four comes after three others
        (2, 3, 4, 80.0),  # no more than two can be added
        (2, 1, 4, 60.0),
        (2, 8, 1, 60.0),
    ],
)
def test_a_lead_lasts_until_the_last_replica_of_a_step_serves(
    nodes: int, most: int, step: int, lead: float
) -> None:
    assert spanning(nodes, most, step).lead == lead


def test_replicas_of_a_schedule_that_come_one_by_one_are_all_ready_at_its_start() -> None:
    launch = {"name": "launch", "start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 9}
    spec = spanning(2, 12, schedules=[launch])
    last = spec.lead + 4 * 20.0  # eight are missing, and a lead holds the wait of four
    for before, minimum in ((last + 1, 1), (last, 9)):
        moment = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp() - before
        assert by_the_clock(spec, moment).pools[0].minimum == minimum
