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
_WHOLE: Final = (
    GPU, "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi",
    "google.com/tpu", "aws.amazon.com/neuron",
)  # fmt: skip
"""Names that may be misspelt; those of parts and of models of a chip are open."""
_KUBERNETES_OWN: Final = re.compile(r"cpu|memory|ephemeral-storage|hugepages-.+")
_OTHERS_NEAR: Final = frozenset({"nvidia.com/vgpu"})
"""What is one letter from an accelerator's name, and somebody's own."""


def of_nvidia(resource: str) -> bool:
    """Return whether a resource is a GPU of NVIDIA's: a whole, a shared or a part of one (MIG)."""
    return _NVIDIA.fullmatch(resource) is not None


def accelerators(resources: Iterable[str]) -> list[str]:
    """Return which resources are accelerators."""
    return [name for name in resources if of_nvidia(name) or _OTHERS.fullmatch(name)]


def misspelt(resource: str) -> str:
    """Return why a resource's name is a slip, and what was meant; empty: it may be right.

    Whoever runs device plugins names resources as they like, so only what is one letter from a name
    that is known, or that no API server takes, is called a slip.
    """
    if accelerators([resource]) or resource in _OTHERS_NEAR:
        return ""
    name = resource.lower()
    near = (k for k in _WHOLE if _one_letter_apart(name, k) or name == k.replace(".com/", "/"))
    meant = next(near, "")
    if meant:
        return f"no device plugin has it; did you mean {meant}?"
    if "/" in resource or _KUBERNETES_OWN.fullmatch(resource):
        return ""
    ending = next((known for known in _WHOLE if known.endswith(f"/{resource.lower()}")), GPU)
    return (
        "no resource of Kubernetes; use cpu, memory, ephemeral-storage, hugepages-SIZE, or what a "
        f"device plugin offers, with its domain, like {ending}"
    )


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether two names are equal, or a letter is missing, too much, another or swapped."""
    if abs(len(one) - len(other)) > 1:
        return False
    pairs = zip(one, other, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    a, b = one[same:], other[same:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
