"""The GPU's attention kernels, in Triton's interpreter on the CPU, beside the reference."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")
os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported

from penstock_worker.attention.gpu import backend  # noqa: E402
from penstock_worker.attention.interface import Sequence  # noqa: E402
from penstock_worker.attention.pool import KVPool  # noqa: E402
from penstock_worker.attention.reference import ReferenceAttention  # noqa: E402

BLOCKS, BLOCK_SIZE = 24, 8


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Contexts that an interpreter can read have several splits and steps all the same."""
    monkeypatch.setattr(backend, "SPLIT", 32)
    monkeypatch.setattr(backend, "STEP", 16)
    monkeypatch.setattr(backend, "ROWS", 16)
    yield
