"""What all tests of the engine share."""

from collections.abc import Iterator

import pytest
import torch
from kernels import native_library

from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.tensor_parallel import ranks


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models are tiny: more threads of torch's only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _outliving_ranks() -> Iterator[None]:
    """An engine's process ends soon after a rank of it; here that process is pytest's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "GRACE_SECONDS", 3600.0)
        yield


@pytest.fixture(scope="module", params=["torch", "native"])
def how(request: pytest.FixtureRequest) -> ExecutionConfig:
    """PyTorch's operators, and the native kernels with two threads."""
    if request.param == "torch":
        return ExecutionConfig()
    if native_library() is None:
        pytest.skip("no C++ compiler")
    return ExecutionConfig(kernels=native_library(), threads=2)
