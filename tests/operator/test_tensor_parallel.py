"""Workers of Penstock's own engine that are divided among ranks: what they get, what is refused."""

from typing import Any

import pytest
from deployments import deployment

from penstock_contract.api import InferenceDeployment
from penstock_operator.manifests import Settings, Unsupported, workload
from penstock_operator.plan import plan

GPU = "nvidia.com/gpu"


def pool(tensor: int, gpus: int = 0, **settings: Any) -> dict[str, Any]:
    limits = {GPU: gpus} if gpus else {}
    return {
        "name": "default",
        "replicas": 1,
        "parallelism": {"tensor": tensor},
        "resources": {"limits": limits},
        **settings,
    }


def pod(wanted: InferenceDeployment) -> dict[str, Any]:
    found = plan(wanted, {}).pools[0]
    made = workload(wanted, found, Settings(), found.spec.replicas)
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def test_ranks_on_gpus_have_one_each_and_memory_to_share() -> None:
    spec = pod(deployment(pool(4, gpus=4)))
    (container,) = spec["containers"]
    arguments = container["args"]
    assert arguments[arguments.index("--tensor-parallel-size") + 1] == "4"
    assert arguments[arguments.index("--device") + 1] == "cuda"
    assert container["resources"]["limits"][GPU] == "4"
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in spec["volumes"]


def test_ranks_on_a_cpu_share_its_cores() -> None:
    (container,) = pod(deployment(pool(2)))["containers"]
    arguments = container["args"]
    assert arguments[arguments.index("--tensor-parallel-size") + 1] == "2"
    assert arguments[arguments.index("--device") + 1] == "cpu"
    assert "/dev/shm" not in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_a_worker_with_one_rank_is_started_as_ever() -> None:
    spec = pod(deployment(pool(1, gpus=1)))
    assert "--tensor-parallel-size" not in spec["containers"][0]["args"]
    assert "shm" not in [volume["name"] for volume in spec["volumes"]]


@pytest.mark.parametrize(("tensor", "gpus"), [(1, 2), (4, 2), (2, 4)])
def test_gpus_that_no_rank_has_or_that_are_lacking_are_refused(tensor: int, gpus: int) -> None:
    with pytest.raises(Unsupported) as refused:
        pod(deployment(pool(tensor, gpus=gpus)))
    assert refused.value.field == f"spec.pools[default].resources.limits[{GPU}]"
    assert f"use {tensor}, one for each rank of parallelism.tensor" in str(refused.value)


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.engine.quantization.weights", {"engine": {"quantization": {"weights": "int8"}}}),
        ("spec.engine.task", {"engine": {"task": "Embed"}}),
        (
            "spec.engine.kvTiers",
            {"engine": {"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]}},
        ),
        (
            "spec.model.adapters",
            {"model": {"uri": "pvc://m", "adapters": [{"name": "a", "uri": "pvc://m/a"}]}},
        ),
    ],
)
def test_what_one_rank_computes_only_is_refused_by_its_field(
    field: str, spec: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported) as refused:
        pod(deployment(pool(2), **spec))
    assert refused.value.field == field
    assert "parallelism.tensor" in str(refused.value)


def test_ranks_hand_no_kv_over() -> None:
    pools = [
        {"name": "prefill", "role": "Prefill", "replicas": 1, "parallelism": {"tensor": 2}},
        {"name": "decode", "role": "Decode", "replicas": 1},
    ]
    with pytest.raises(Unsupported, match=r"spec\.pools\[prefill\]\.role.*use Unified"):
        pod(deployment(*pools))
