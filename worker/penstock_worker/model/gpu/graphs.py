"""Records work as CUDA graphs, so that a whole step of decoding is launched at once.

Launching a kernel from Python takes as long as a small one runs; a step has hundreds. A graph has
the same launches with the same addresses each time, so what changes is written into the same memory
before it is replayed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]
"""Takes work, and returns what does it again and gives the same tensor, with new contents."""


def unrecorded(work: Work) -> Work:
    """Do the work anew each time: where there are no CUDA graphs."""
    return work


class CudaGraphs:
    """Records graphs that share their memory: only one of them runs at a time."""

    WARM_UPS = 2
    """Before recording: kernels are compiled and libraries choose theirs at the first call."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        """See `Record`."""
        beside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(self.WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
