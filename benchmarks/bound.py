"""What the machine could do at most, measured in the moment of the benchmark itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Rates of all cores together."""

    bytes_per_second: float
    """Reading memory in order."""
    flops_per_second: float
    """A large float32 matrix product with packed weights."""


def measure() -> Machine:
    """Return the best rates of a few tries."""
    memory = torch.ones(1 << 26)
    size = 2048
    x = torch.randn(size, size)
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(size, size), size)

    def product() -> object:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    return Machine(
        bytes_per_second=memory.nbytes / _best(memory.sum),
        flops_per_second=2 * size**3 / _best(product),
    )


def _best(work: Callable[[], object], tries: int = 6) -> float:
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
