"""Accelerators by what device plugins call them: counted alike, and refused where none can run."""

from typing import Any

import pytest
from deployments import deployment

from penstock_contract.api.accelerators import accelerators, misspelt, of_nvidia
from penstock_contract.api.pool import Resources
from penstock_operator.manifests import Settings, Unsupported, workload
from penstock_operator.plan import plan

OTHERS = ["amd.com/gpu", "gpu.intel.com/xe", "habana.ai/gaudi", "google.com/tpu"]


def made(limits: dict[str, Any], tensor: int, **engine: Any) -> dict[str, Any]:
    pool = {
        "name": "default",
        "replicas": 1,
        "parallelism": {"tensor": tensor},
        "resources": {"limits": limits},
    }
    infd = deployment(pool, engine=engine)
    found = workload(infd, plan(infd, {}).pools[0], Settings(), 1)
    container: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", *OTHERS])
def test_an_accelerator_is_counted_whoever_made_it(name: str) -> None:
    assert Resources(limits={"cpu": "4", "memory": "8Gi", name: 4}).gpus == 4
    assert accelerators(["cpu", "memory", "hugepages-2Mi", name]) == [name]


def test_none_of_them_is_none() -> None:
    assert Resources(limits={"cpu": "4", "nvidia.com/gpu": 0}).devices == []


@pytest.mark.parametrize("name", OTHERS)
def test_vllm_runs_on_others_with_an_image_for_them(name: str) -> None:
    image = "registry.example.com/vllm-for-it:1"
    container = made({name: 2}, 2, type="VLLM", image=image)
    assert container["image"] == image
    assert container["resources"]["limits"][name] == "2"
    with pytest.raises(Unsupported, match="name vLLM's image for these") as refused:
        made({name: 2}, 2, type="VLLM")
    assert refused.value.field == f"spec.pools[default].resources.limits[{name}]"


@pytest.mark.parametrize("name", OTHERS)
def test_penstocks_engine_has_kernels_for_nvidia_s_only(name: str) -> None:
    with pytest.raises(Unsupported, match=r"engine\.type VLLM and its image"):
        made({name: 1}, 1, image="registry.example.com/own:1")


def test_a_part_of_a_gpu_is_one() -> None:
    container = made({"nvidia.com/mig-1g.10gb": 1}, 1)
    assert container["args"][container["args"].index("--device") + 1] == "cuda"
    assert of_nvidia("nvidia.com/gpu.shared")


def test_two_kinds_in_one_pod_are_refused() -> None:
    with pytest.raises(Unsupported, match="accelerators of one kind"):
        made({"nvidia.com/gpu": 1, "amd.com/gpu": 1}, 2, type="VLLM", image="any:1")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nvidia.com/gpus", "nvidia.com/gpu"),
        ("nvidia.com/GPU", "nvidia.com/gpu"),
        ("nvida.com/gpu", "nvidia.com/gpu"),
        ("nvidia.com/gup", "nvidia.com/gpu"),
        ("nvidia/gpu", "nvidia.com/gpu"),
        ("amd.com/gp", "amd.com/gpu"),
        ("google.com/tpus", "google.com/tpu"),
        ("gpu", "nvidia.com/gpu"),
        ("tpu", "google.com/tpu"),
        ("Memory", "memory"),
    ],
)
def test_a_misspelt_resource_is_refused_with_what_was_meant(name: str, meant: str) -> None:
    assert meant in misspelt(name)
    with pytest.raises(Unsupported, match=meant) as refused:
        made({name: 1}, 1, type="VLLM")
    assert refused.value.field == f"spec.pools[default].resources.limits[{name}]"


@pytest.mark.parametrize(
    "name",
    [
        *("cpu", "memory", "ephemeral-storage", "hugepages-2Mi", "nvidia.com/gpu", *OTHERS),
        *("nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared", "huawei.com/Ascend910"),
        *("rdma/hca_shared_devices_a", "nvidia.com/hostdev", "openshift.io/mellanoxnics"),
        *("nvidia.com/vgpu", "nvidia.com/gpumem", "nvidia.com/gpucores", "example.com/gpu"),
        *("aws.amazon.com/neuroncore", "vpc.amazonaws.com/efa", "amd.com/cpx_nps4"),
    ],
)
def test_other_resources_are_whoever_s_they_are(name: str) -> None:
    assert misspelt(name) == ""
