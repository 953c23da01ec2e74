"""Accelerators, as device plugins name them among a container's resources.

The budget, `parallelism` and the choice of an image count them; everything else about a pod is the
same whatever it computes on.
"""

import re
from collections.abc import Iterable
from typing import Final

GPU: Final = "nvidia.com/gpu"
"""What NVIDIA's device plugin calls a whole GPU."""
_NVIDIA: Final = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-.+)")
_OTHERS: Final = re.compile(
    r"amd\.com/gpu|gpu\.intel\.com/(i915|xe)|habana\.ai/gaudi|google\.com/tpu"
    r"|aws\.amazon\.com/neuron|huawei\.com/Ascend.+"
)


def of_nvidia(resource: str) -> bool:
    """Return whether a resource is a GPU of NVIDIA's: a whole, a shared or a part of one (MIG)."""
    return _NVIDIA.fullmatch(resource) is not None


def accelerators(resources: Iterable[str]) -> list[str]:
    """Return which resources are accelerators."""
    return [name for name in resources if of_nvidia(name) or _OTHERS.fullmatch(name)]
