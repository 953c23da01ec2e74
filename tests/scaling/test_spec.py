"""What the autoscaler reads out of a deployment."""

from typing import Any

import pytest
from deployments import deployment

from penstock_operator.scaling.spec import scaling_spec


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
